"""Reads images of every mode and orientation as 8-bit arrays: one decoder for files and objects."""

import contextlib
import functools
import os
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torchvision.io import ImageReadMode, decode_jpeg

__all__ = [
    "Header",
    "image_suffixes",
    "open_image",
    "orientation",
    "read_header",
    "read_image",
    "to_8_bits",
    "to_array",
]

# Pillow refuses 179 million pixels, of which aerial and microscope images have more.
Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, 1 << 30)

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
_BACK = _TRANSPOSE | {6: _TRANSPOSE[8], 8: _TRANSPOSE[6]}
_SWAPS_SIDES = (5, 6, 7, 8)
_HEIF = (".heic", ".heics", ".heif", ".heifs", ".hif")
# What Pillow lists and is no image of pixels: videos, pages, and formats of which others read it.
_NO_IMAGES = ("MPEG", "PDF", "EPS", "BUFR", "GRIB", "HDF5", "WMF", "IPTC", "FITS")


@functools.cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of images, in lower case; `.heic` too, which need pillow-heif to be read."""
    _have_heif()
    known = Image.registered_extensions().items()
    read = (s for s, kind in known if kind in Image.OPEN and kind not in _NO_IMAGES)
    return frozenset(read).union(_HEIF, [".mpo"])  # which is read as JPEG


@dataclass(frozen=True)
class Header:
    """What a file says of its image.

    Attributes:
        stored: width and height of the pixels in the file.
        displayed: those of the image turned as its EXIF orientation says.
        turned: whether that says anything but "as it is stored".
    """

    stored: tuple[int, int]
    displayed: tuple[int, int]
    turned: bool


def read_header(file_name: str | os.PathLike) -> Header:
    """
    Raises:
        OSError: there is no such file, or it is not an image.
    """
    with PathManager.open(os.fspath(file_name), "rb") as file:
        image = open_image(file, str(file_name))
        size = image.size
        turn = 1 if image.format == "PNG" and _is_plain_png(file) else orientation(image)
    swapped = (size[1], size[0]) if turn in _SWAPS_SIDES else size
    # Pillow turns a TIFF itself when it loads it, and says the size that it will have.
    stored, displayed = (swapped, size) if image.format == "TIFF" else (size, swapped)
    return Header(stored, displayed, turn != 1)


def read_image(file_name: str, format: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Reads an image like Detectron2's `read_image`, with two differences.

    Values of 16 bits are scaled to 8; Pillow would cut them off at 255. And where the annotated
    size is that of the stored pixels, but not that of the image turned as its EXIF orientation
    says, the annotations were made on the stored pixels, and it is not turned. Transparency is
    dropped.

    Args:
        file_name: a path that iopath opens.
        format: a Pillow mode, or "BGR" or "YUV-BT.601".
        size: annotated width and height; None if unknown.

    Returns:
        (H, W, C) as Detectron2's; uint8, but floating-point for "YUV-BT.601". An ordinary JPEG is a
        view of (C, H, W), which a resize and the model take without a copy.

    Raises:
        OSError: there is no such file, it is not an image, or it is cut off.
        ValueError: values that have no meaning in 8 bits.
    """
    with PathManager.open(file_name, "rb") as file:
        image = open_image(file, file_name)
        pixels = _decode_jpeg(file, format) if _is_plain_jpeg(image, format) else None
        return to_array(image, format, size) if pixels is None else pixels


def open_image(file, name: str) -> Image.Image:
    """Pillow's image of an open file, HEIC among them; its pixels are not read yet.

    Raises:
        UnidentifiedImageError: an OSError that names it.
    """
    heif = _have_heif()
    try:
        return Image.open(file)
    except UnidentifiedImageError as error:  # which names the open file's object
        help = ": reading HEIC takes pillow-heif: pip install 'd2_regnet[heic]'"
        missing = not heif and name.lower().endswith(_HEIF)
        raise UnidentifiedImageError(
            f"cannot identify {name} as an image{help if missing else ''}"
        ) from error


def to_array(image: Image.Image, format: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Pixels of a Pillow image; arguments, result and errors are `read_image`'s."""
    turn = orientation(image)
    if isinstance(image, TiffImageFile) and turn in _SWAPS_SIDES:
        image.filename = ""  # else Pillow 13 maps a plain one into memory with its sides swapped
    image.load()
    turned_by_pillow = turn != 1 and orientation(image) == 1
    swaps = turn in _SWAPS_SIDES and image.width != image.height
    if turned_by_pillow:
        stored = image.size[::-1] if swaps else image.size
        if swaps and size == stored:
            image = image.transpose(_BACK[turn])
    elif turn in _TRANSPOSE and not (swaps and size == image.size):
        image = image.transpose(_TRANSPOSE[turn])
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(to_8_bits(np.asarray(image)))
    return np.ascontiguousarray(convert_PIL_to_numpy(image, format))


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (as it is stored) if it has none that can be read."""
    with contextlib.suppress(Exception):  # Pillow raises all kinds, see detectron2 #1885
        turn = image.getexif().get(_EXIF_ORIENTATION, 1)
        return int(turn) if turn in _TRANSPOSE else 1
    return 1


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """uint8 from 0 to 65535: v * 255 / 65535, rounded, as the PNG standard says.

    Raises:
        ValueError: floating-point values, or some out of this range.
    """
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"values beyond 16 bits, or not whole ({values.dtype}): convert the image to 8 bits"
        )
    return ((values.astype(np.int32) + 128) // 257).astype(np.uint8)


@functools.cache
def _have_heif() -> bool:
    """Teaches Pillow HEIC, where pillow-heif is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _is_plain_png(file) -> bool:
    """Whether no chunk could hold EXIF data, for which Pillow would decode the whole image."""
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        if head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            return False
        file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return True


def _is_plain_jpeg(image: Image.Image, format: str) -> bool:
    return (
        (image.format, image.mode) == ("JPEG", "RGB")
        and format in ("RGB", "BGR")
        and orientation(image) == 1
    )


def _decode_jpeg(file, format: str) -> np.ndarray | None:
    """torchvision's decoding: Pillow's values in two thirds of its time; None if it fails."""
    file.seek(0)
    try:
        data = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
        pixels = decode_jpeg(data, ImageReadMode.RGB)
    except (RuntimeError, AttributeError):  # damaged, and Pillow says how; or built without JPEG
        return None
    if format == "BGR":
        pixels = pixels.flip(0)
    return pixels.permute(1, 2, 0).numpy()
