"""Networks drawn from the paper's design spaces, at a number of multiply-adds.

Section numbers are those of "Designing Network Design Spaces" (https://arxiv.org/abs/2003.13678).
Where it gives a range but not how to draw from it, the distributions are those of its authors'
sampler: pycls, `pycls/sweep/samplers.py` and the defaults in `pycls/sweep/config.py`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from numpy.random import RandomState

from d2_regnet.archs import WIDTH_QUANTUM, Complexity, RegNetArch, Stages, suggest

STAGES = 4
SE_RATIO = 0.25  # of RegNetY (section 5)
TRIES = 1_000_000  # as pycls's NUM_SAMPLES


@dataclass(frozen=True)
class AnyNetArch(Stages):
    """A network stage by stage (paper, section 3.2); `build_regnet` builds it as it does a RegNet.

    Args:
        stage_widths: as in `archs.Stages`, one number a stage; so are the next three.
        stage_depths: blocks.
        stage_group_widths: channels of a group.
        stage_bottleneck_ratios: one over the paper's b.
        se_ratio: width of squeeze-and-excitation over the block's input width; 0 leaves it out.
        stem_width: channels of the stem's output.

    Raises:
        ValueError: numbers of stages differ, or groups do not divide a bottleneck.
    """

    stage_widths: tuple[int, ...]
    stage_depths: tuple[int, ...]
    stage_group_widths: tuple[int, ...]
    stage_bottleneck_ratios: tuple[float, ...]
    se_ratio: float = 0.0
    stem_width: int = 32

    def __post_init__(self):
        per_stage = (
            self.stage_widths,
            self.stage_depths,
            self.stage_group_widths,
            self.stage_bottleneck_ratios,
        )
        if len({len(numbers) for numbers in per_stage}) != 1:
            raise ValueError(f"AnyNetArch: not one number a stage: {per_stage}")
        for width, depth, group_width, ratio in zip(*per_stage):
            bottleneck = round(width * ratio)
            if min(width, depth, group_width, bottleneck) < 1 or bottleneck % group_width:
                raise ValueError(
                    f"AnyNetArch: no stage of width {width}, depth {depth} and bottleneck "
                    f"{bottleneck} in groups of {group_width}"
                )


@dataclass(frozen=True)
class Space:
    """`draw(rng, se_ratio)` makes a candidate, or raises ValueError where the numbers drawn make no
    network; `allows(arch, cost)` decides on it."""

    about: str
    draw: Callable[[RandomState, float], Stages]
    allows: Callable[[Stages, Complexity], bool] = lambda arch, cost: True


def log_uniform(rng: RandomState, low: float, high: float, step: float) -> float:
    """From `rng`, a multiple of `step` in [low, high], log-uniform (pycls `log_uniform`)."""
    below = low - min(step, low / 2)  # so that rounding up reaches `low` as often as it should
    return math.ceil(round(math.exp(rng.uniform(math.log(below), math.log(high))) / step, 9)) * step


def power_of_two(rng: RandomState, low: int, high: int) -> int:
    """From `rng`, a power of two in [low, high], all as likely (pycls `power2_uniform`)."""
    return 2 ** int(rng.randint(int(math.log2(low)), int(math.log2(high)) + 1))


def draw_anynet(
    rng: RandomState, se_ratio: float, *, shared_b=False, shared_g=False, sort_w=False, sort_d=False
) -> AnyNetArch:
    """AnyNetX (section 3.2): 16 free numbers, d_i <= 16, w_i <= 1024, b_i in {1, 2, 4} and
    g_i in {1, 2, 4, ..., 32}, each drawn log-uniformly from `rng`; all with one `se_ratio`.

    Each option is one of the section's steps: B (`shared_b`), one b for all stages; C (`shared_g`),
    one g; D (`sort_w`), widths that do not shrink; E (`sort_d`), depths that do not shrink. Sorting
    independent draws gives the distribution that rejecting unsorted ones gives, without the waste.
    """
    stages = range(STAGES)
    depths = [int(log_uniform(rng, 1, 16, 1)) for _ in stages]
    widths = [int(log_uniform(rng, 8, 1024, WIDTH_QUANTUM)) for _ in stages]
    bs = [power_of_two(rng, 1, 4) for _ in stages]
    groups = [power_of_two(rng, 1, 32) for _ in stages]
    if shared_b:
        bs = bs[:1] * STAGES
    if shared_g:
        groups = groups[:1] * STAGES
    if sort_w:
        widths.sort()
    if sort_d:
        depths.sort()
    # Groups that divide, as pycls's adjust_ws_gs_comp.
    bottlenecks = [width // b for width, b in zip(widths, bs)]
    groups = [min(g, bottleneck) for g, bottleneck in zip(groups, bottlenecks)]
    bottlenecks = [max(g, round(each / g) * g) for each, g in zip(bottlenecks, groups)]
    return AnyNetArch(
        stage_widths=tuple(bottleneck * b for bottleneck, b in zip(bottlenecks, bs)),
        stage_depths=tuple(depths),
        stage_group_widths=tuple(groups),
        stage_bottleneck_ratios=tuple(1 / b for b in bs),
        se_ratio=se_ratio,
    )


def draw_regnet(rng: RandomState, se_ratio: float) -> RegNetArch:
    """RegNet (section 3.3): d < 64, w_0, w_a < 256, 1.5 <= w_m <= 3, b and g as in AnyNetX.

    Drawn from `rng`, with the `se_ratio` given.
    """
    return _four_stages(
        depth=int(rng.randint(STAGES, 64)),
        w_0=int(log_uniform(rng, 8, 248, WIDTH_QUANTUM)),
        w_a=round(log_uniform(rng, 8, 255.9, 0.1), 1),
        w_m=round(log_uniform(rng, 1.5, 3, 0.001), 3),
        bottleneck_ratio=1 / power_of_two(rng, 1, 4),
        group_width=power_of_two(rng, 1, 32),
        se_ratio=se_ratio,
    )


def draw_constrained(rng: RandomState, se_ratio: float) -> RegNetArch:
    """RegNetX (sections 4 and 5): b = 1, w_m >= 2, 12 <= d <= 28; g as pycls, in steps of 8.

    Drawn from `rng`, with the `se_ratio` given.
    """
    return _four_stages(
        depth=int(rng.randint(12, 29)),
        w_0=int(log_uniform(rng, 8, 256, WIDTH_QUANTUM)),
        w_a=round(log_uniform(rng, 8, 256, 0.1), 1),
        w_m=round(log_uniform(rng, 2, 3, 0.001), 3),
        group_width=int(log_uniform(rng, 8, 128, 8)),
        se_ratio=se_ratio,
    )


def _four_stages(depth: int, w_0: int, w_a: float, w_m: float, **others) -> RegNetArch:
    """A RegNet of four stages, no power of w_m between the narrowest and the widest left out (as
    pycls `check_regnet_constraints`); ValueError where the parameters make another."""
    levels = 1 + round(math.log((w_0 + w_a * (depth - 1)) / w_0, w_m))
    if levels == STAGES:  # checked first, as most draws fail here
        arch = RegNetArch(depth, w_0, w_a, w_m, **others)
        if len(arch.stage_widths) == STAGES:
            return arch
    raise ValueError(f"not {STAGES} stages")


def is_lean(arch: RegNetArch, cost: Complexity) -> bool:
    """Whether the `cost` of `arch` is below the limits of section 4 (figure 12).

    With F multiply-adds in units of 10^9: fewer than 3 + 5.5 F million parameters and than
    6.5 sqrt(F) million activations; the numbers are pycls's (`pycls/sweep/config.py`).
    """
    billions = cost.flops / 1e9
    return cost.params < (3 + 5.5 * billions) * 1e6 and cost.acts < 6.5 * math.sqrt(billions) * 1e6


_B = dict(shared_b=True)
_C = _B | dict(shared_g=True)
_D = _C | dict(sort_w=True)
_E = _D | dict(sort_d=True)

SPACES = {
    "anynet_a": Space("AnyNetX_A: four stages, all free (section 3.2)", draw_anynet),
    "anynet_b": Space("A with one bottleneck ratio for all stages", partial(draw_anynet, **_B)),
    "anynet_c": Space("B with one group width for all stages", partial(draw_anynet, **_C)),
    "anynet_d": Space("C with widths that do not shrink", partial(draw_anynet, **_D)),
    "anynet_e": Space("D with depths that do not shrink", partial(draw_anynet, **_E)),
    "regnet": Space("widths a quantized line (section 3.3)", draw_regnet),
    "constrained": Space("RegNet within section 4's limits", draw_constrained, is_lean),
}


def sample(
    space: str,
    flops: float,
    n: int,
    *,
    family: str = "X",
    tolerance: float = 0.05,
    seed: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[Stages]:
    """Draws networks until `n` different ones have about the multiply-adds that are wanted.

    Args:
        space: a key of `SPACES`.
        flops: multiply-adds for an image of 224x224, the classifier of 1000 classes included.
        n: how many, at least 1.
        family: "X", or "Y" for squeeze-and-excitation at a quarter of the block's input width.
        tolerance: how far from `flops` a network may be, as a share of it, in (0, 1). The paper's
            360 to 400 MF (section 3.2) are 0.05 around 380 MF.
        seed: 0 to 2**32 - 1; the same one gives the same networks.
        progress: as tqdm: passed the numbers from 0 to n - 1, iterated as networks are found.

    Raises:
        ValueError: an impossible argument, or too few networks found in `TRIES` draws.
    """
    if space not in SPACES:
        raise ValueError(f"unknown space {space!r}: {suggest(space, SPACES)}")
    if family not in ("X", "Y"):
        raise ValueError(f"family must be X or Y, not {family!r}")
    if n < 1 or not flops > 0 or not 0 < tolerance < 1 or not 0 <= seed < 2**32:
        raise ValueError(
            "wanted are n >= 1, flops > 0, a tolerance between 0 and 1 and a seed from 0 to "
            f"{2**32 - 1}, not {n}, {flops:g}, {tolerance:g} and {seed}"
        )
    rng, se_ratio = RandomState(seed), SE_RATIO if family == "Y" else 0.0
    found, tries = {}, 0
    for _ in progress(range(n)):
        before = len(found)
        while len(found) == before:
            if tries == TRIES:
                raise ValueError(
                    f"space {space}, family {family}: {len(found)} network(s) within "
                    f"{tolerance:.1%} of {flops / 1e9:g} GF in {tries:,} draws, not {n}: ask for "
                    "fewer or for another size, or raise the tolerance"
                )
            tries += 1
            try:
                arch = SPACES[space].draw(rng, se_ratio)
            except ValueError:  # no network
                continue
            cost = arch.complexity()
            if abs(cost.flops - flops) <= tolerance * flops and SPACES[space].allows(arch, cost):
                found[arch] = None
    return list(found)
