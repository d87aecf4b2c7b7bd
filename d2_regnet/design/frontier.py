"""Which networks are worth their time, by a measure of quality from elsewhere."""

from collections.abc import Mapping, Sequence

from d2_regnet.archs import Stages

# Top-1 error (%) on ImageNet's validation set, 224x224, one crop, 100 epochs: pycls's MODEL_ZOO.md
# (https://github.com/facebookresearch/pycls), whose models these are.
_ERRORS = {  # RegNetX, RegNetY
    "200MF": (31.1, 29.7),
    "400MF": (27.4, 25.9),
    "600MF": (25.9, 24.5),
    "800MF": (24.8, 23.7),
    "1.6GF": (23.0, 22.1),
    "3.2GF": (21.7, 21.1),
    "4.0GF": (21.4, 20.6),
    "6.4GF": (20.8, 20.1),
    "8.0GF": (20.7, 20.1),
    "12GF": (20.3, 19.7),
    "16GF": (20.0, 19.6),
    "32GF": (19.5, 19.1),
}
IMAGENET_ERROR = {
    f"RegNet{family}-{size}": error
    for size, errors in _ERRORS.items()
    for family, error in zip("XY", errors)
}


def frontier(cost: Sequence[float], badness: Sequence[float]) -> list[int]:
    """Indices of the points that no other beats, from cheap to dear, and so from bad to good.

    A point beats one that it is as cheap and as good as, if it is better in one of the two. Less
    is better in both; of equal points the first counts.
    """
    found, best = [], float("inf")
    for i in sorted(range(len(cost)), key=lambda i: (cost[i], badness[i], i)):
        if badness[i] < best:
            found.append(i)
            best = badness[i]
    return found


def quality(archs: Mapping[str, Stages]) -> tuple[str, dict[str, float], int]:
    """The measure that stands in for detection quality, and its value by name.

    The published ImageNet top-1 error (%) where every network has one; else the multiply-adds at
    224x224 (in units of 10^9), by which the larger of two networks is usually the better.

    Returns:
        A title, the values, and 1 where less is better, -1 where more is.
    """
    if all(name in IMAGENET_ERROR for name in archs):
        return "ImageNet top-1 error (%), published", {n: IMAGENET_ERROR[n] for n in archs}, 1
    flops = {name: arch.complexity().flops / 1e9 for name, arch in archs.items()}
    return "GFLOPs at 224x224 (a stand-in: nobody has trained these)", flops, -1
