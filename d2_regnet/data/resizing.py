"""Detectron2's resizing and padding of images, in half their time."""

import detectron2.data.transforms as T
import numpy as np
import torch
from PIL import Image

__all__ = ["FastInput", "FastPadTransform", "FastResizeTransform"]


class FastResizeTransform(T.ResizeTransform):
    """Detectron2's `ResizeTransform`, which leaves bilinear 8-bit images to torch.

    Both widen the filter where an image shrinks. torch rounds its weights to 16 bits, so of COCO's
    images at 0.3 to 2.1 times their size up to 4 % of the values differ from Pillow's by 1, and
    less than one in 10,000 by 2.
    """

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """(H, W, C) of another size; uint8 as views of (C, H, W), all else as Detectron2's."""
        method = self.interp if interp is None else interp
        is_picture = img.dtype == np.uint8 and img.ndim == 3 and img.shape[2] in (1, 3)
        # Pillow weighs four channels with the last, and torch fails on a single pixel.
        if not is_picture or method != Image.Resampling.BILINEAR or self.new_h * self.new_w == 1:
            return super().apply_image(img, interp)
        pixels = torch.from_numpy(np.require(img.transpose(2, 0, 1), requirements=["C", "W"]))
        resized = torch.nn.functional.interpolate(
            pixels[None], (self.new_h, self.new_w), mode="bilinear", antialias=True
        )
        return resized[0].permute(1, 2, 0).numpy()


class FastPadTransform(T.PadTransform):
    """Detectron2's `PadTransform`, which keeps the order of an image in memory."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(H, W, C) with its border, as a view of (C, H, W); (H, W) as Detectron2's."""
        if img.ndim != 3:
            return super().apply_image(img)
        height, width, channels = img.shape
        shape = (channels, self.y0 + height + self.y1, self.x0 + width + self.x1)
        padded = np.full(shape, self.pad_value, img.dtype).transpose(1, 2, 0)
        padded[self.y0 : self.y0 + height, self.x0 : self.x0 + width] = img
        return padded


class FastInput(T.AugInput):
    """Detectron2's `AugInput`, which resizes and pads with the transforms above.

    The transforms that augmentations report, and that annotations go through, stay Detectron2's.
    """

    def transform(self, tfm: T.Transform) -> None:
        if type(tfm) is T.TransformList:
            for each in tfm.transforms:
                self.transform(each)
            return
        if type(tfm) is T.ResizeTransform:
            tfm = FastResizeTransform(tfm.h, tfm.w, tfm.new_h, tfm.new_w, tfm.interp)
        elif type(tfm) is T.PadTransform:
            sides = tfm.x0, tfm.y0, tfm.x1, tfm.y1
            values = tfm.pad_value, tfm.seg_pad_value
            tfm = FastPadTransform(*sides, tfm.orig_w, tfm.orig_h, *values)
        super().transform(tfm)
