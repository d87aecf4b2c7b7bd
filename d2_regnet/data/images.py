"""Reads images of every mode and orientation as 8-bit arrays."""

import numpy as np
import torch
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_jpeg

__all__ = ["orientation", "read_image"]

_EXIF_ORIENTATION = 274
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)


def read_image(file_name: str, format: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Reads an image like Detectron2's `read_image`, with two differences.

    Values of 16 bits are scaled to 8; Pillow would cut them off at 255. And where the annotated
    size is that of the stored pixels, but not that of the image turned as its EXIF orientation
    says, the annotations were made on the stored pixels, and it is not turned. Transparency is
    dropped.

    Args:
        file_name: a path that iopath opens.
        format: a Pillow mode, or "BGR" or "YUV-BT.601".
        size: annotated width and height; None where unknown.

    Returns:
        (H, W, C) as Detectron2's; uint8, but floating-point for "YUV-BT.601". An ordinary JPEG is a
        view of (C, H, W), which a resize and the model take without a copy.

    Raises:
        OSError: there is no such file, it is no image, or it is cut off.
        ValueError: values that have no meaning in 8 bits.
    """
    with PathManager.open(file_name, "rb") as file:
        try:
            image = Image.open(file)
        except UnidentifiedImageError as error:  # which names the open file's object
            raise UnidentifiedImageError(f"cannot identify {file_name} as an image") from error
        pixels = _decode_jpeg(file, format) if _is_plain_jpeg(image, format) else None
        if pixels is not None:
            return pixels
        image.load()
        turn = orientation(image)
    if turn in _TRANSPOSE and not (
        turn in _SWAPS_SIDES and size == image.size and image.width != image.height
    ):
        image = image.transpose(_TRANSPOSE[turn])
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_8_bits(image))
    return np.ascontiguousarray(convert_PIL_to_numpy(image, format))


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (as it is stored) where there is none, or none readable."""
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # Pillow raises all kinds, see detectron2 #1885
        return 1


def _is_plain_jpeg(image: Image.Image, format: str) -> bool:
    return (
        (image.format, image.mode) == ("JPEG", "RGB")
        and format in ("RGB", "BGR")
        and orientation(image) not in _TRANSPOSE
    )


def _decode_jpeg(file, format: str) -> np.ndarray | None:
    """torchvision's decoding: Pillow's values in two thirds of its time; None where it fails."""
    file.seek(0)
    try:
        data = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
        pixels = decode_jpeg(data, ImageReadMode.RGB)
    except (RuntimeError, AttributeError):  # damaged, and Pillow says how; or built without JPEG
        return None
    if format == "BGR":
        pixels = pixels.flip(0)
    return pixels.permute(1, 2, 0).numpy()


def _to_8_bits(image: Image.Image) -> np.ndarray:
    """uint8 (H, W) from 0 to 65535: v * 255 / 65535, rounded, as the PNG standard says."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"values of mode {image.mode} beyond 16 bits: convert the image to 8 bits")
    return ((values.astype(np.int32) + 128) // 257).astype(np.uint8)
