"""AnyNet: stages whose shapes are free, the space that the paper narrows down to RegNet."""

from dataclasses import dataclass

from d2_regnet.archs import Stages


@dataclass(frozen=True)
class AnyNetArch(Stages):
    """A network stage by stage (paper, section 3.2); `build_regnet` builds it as it does a RegNet.

    Args:
        stage_widths, stage_depths, stage_group_widths, stage_bottleneck_ratios: as in
            `archs.Stages`, one number a stage. The paper's b is one over the bottleneck ratio.
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
