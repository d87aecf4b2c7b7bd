"""Means and standard deviations of ImageNet's images, as torchvision's and MMDetection's weights
expect them."""

# Red, green, blue, of pixels from 0 to 255.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


def pixel_statistics(input_format: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by channel, in the order "BGR" or "RGB"; else ValueError."""
    if input_format not in ("BGR", "RGB"):
        raise ValueError(f"input_format must be BGR or RGB, not {input_format!r}")
    step = 1 if input_format == "RGB" else -1
    return PIXEL_MEAN[::step], PIXEL_STD[::step]
