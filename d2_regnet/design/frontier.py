"""Which networks are worth their time."""

from collections.abc import Mapping, Sequence

from d2_regnet.archs import Stages

from .imagenet import IMAGENET_ERROR


def frontier(cost: Sequence[float], badness: Sequence[float]) -> list[int]:
    """The points that no other beats: none is as cheap and as good, and better in one of the two.

    Args:
        cost, badness: two numbers of every point; less is better.

    Returns:
        Their indices, from cheap to dear, and so from bad to good. Of equal points the first.
    """
    found, best = [], float("inf")
    for i in sorted(range(len(cost)), key=lambda i: (cost[i], badness[i], i)):
        if badness[i] < best:
            found.append(i)
            best = badness[i]
    return found


def quality(archs: Mapping[str, Stages]) -> tuple[str, dict[str, float], int]:
    """The measure that stands in for detection quality, and its value by name.

    The published ImageNet top-1 error (%) where every network has one. There is none of a network
    that nobody has trained: then it is the multiply-adds at 224x224 (in units of 10^9), which only
    says that of two networks, trained alike, the larger is usually the better.

    Returns:
        A title, the values, and 1 where less is better, -1 where more is.
    """
    if all(name in IMAGENET_ERROR for name in archs):
        return "ImageNet top-1 error (%), published", {n: IMAGENET_ERROR[n] for n in archs}, 1
    return (
        "GFLOPs at 224x224 (a stand-in: nobody has trained these)",
        {name: arch.complexity().flops / 1e9 for name, arch in archs.items()},
        -1,
    )
