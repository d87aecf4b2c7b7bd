"""RegNet architectures: from design parameters to stage widths, depths and group widths.

A RegNet is described by a quantized linear function of block width over depth ("Designing Network
Design Spaces", Radosavovic et al., CVPR 2020, section 3.3, https://arxiv.org/abs/2003.13678).
`RegNetArch` holds its parameters and derives everything else; `get_arch` finds the 24 published
RegNets by name, and your own by a YAML file.
"""

import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, asdict, astuple, dataclass, fields
from functools import partial
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
import yaml

# Block widths are rounded to multiples of this (paper, section 3.3).
WIDTH_QUANTUM = 8


@dataclass(frozen=True)
class Complexity:
    """What one image costs: multiply-adds, parameters and convolution outputs (numbers)."""

    flops: int = 0
    params: int = 0
    acts: int = 0

    def __add__(self, other: "Complexity") -> "Complexity":
        return Complexity(*(a + b for a, b in zip(astuple(self), astuple(other))))

    def __mul__(self, times: int) -> "Complexity":
        return Complexity(*(number * times for number in astuple(self)))


class Stages:
    """A network of stages of equal blocks (the paper's AnyNet, section 3.2), and what it costs."""

    __dataclass_fields__: ClassVar[dict[str, Field]]  # its subclasses are dataclasses
    stem_width: int  # channels of the stem's output
    stage_widths: tuple[int, ...]  # output channels of every stage
    stage_depths: tuple[int, ...]  # blocks
    stage_group_widths: tuple[int, ...]  # channels per group of the 3x3 convolutions
    stage_bottleneck_ratios: tuple[float, ...]  # bottleneck width over block width
    se_ratio: float  # width of squeeze-and-excitation over the block's input width; 0: none

    @property
    def family(self) -> str:
        """ "X", or "Y" if there is squeeze-and-excitation."""
        return "Y" if self.se_ratio else "X"

    @property
    def se_widths(self) -> tuple[int, ...]:
        """Squeeze-and-excitation channels of every block in order; zeros for RegNetX."""
        inputs = [self.stem_width]
        for width, depth in zip(self.stage_widths, self.stage_depths):
            inputs += [width] * depth
        return tuple(round(width * self.se_ratio) for width in inputs[:-1])

    def complexity(self, size: int | tuple[int, int] = 224, num_classes: int = 1000) -> Complexity:
        """Multiply-adds, parameters and activations for one image, counted as pycls counts.

        Args:
            size: side, or (height, width), of the image in pixels.
            num_classes: outputs of the classifier on top; 0 counts the backbone alone.

        Returns:
            `Complexity`; activations are the outputs of convolutions and of the classifier.
        """
        return sum(self.stage_complexity(size, num_classes), Complexity())

    def stage_complexity(
        self, size: int | tuple[int, int] = 224, num_classes: int = 1000
    ) -> list[Complexity]:
        """`complexity` in parts: the stem, every stage, and the classifier."""
        h, w = (size, size) if isinstance(size, int) else size
        parts = [_conv(3, self.stem_width, 3, h := _half(h), w := _half(w))]
        w_in = self.stem_width
        groups, ratios = self.stage_group_widths, self.stage_bottleneck_ratios
        stages = zip(self.stage_widths, self.stage_depths, groups, ratios)
        for width, depth, group_width, ratio in stages:
            bottleneck = round(width * ratio)
            first = _conv(w_in, bottleneck, 1, h, w)
            h, w = _half(h), _half(w)
            first += _conv(w_in, width, 1, h, w)
            every = _conv(bottleneck, bottleneck, 3, h, w, bottleneck // group_width)
            every += _conv(bottleneck, width, 1, h, w)
            stage = first + every + self._se(bottleneck, w_in)
            if depth > 1:
                other = every + _conv(width, bottleneck, 1, h, w) + self._se(bottleneck, width)
                stage += other * (depth - 1)
            parts.append(stage)
            w_in = width
        parts.append(_dense(w_in, num_classes))
        return parts

    def _se(self, bottleneck: int, w_in: int) -> Complexity:
        """The squeeze-and-excitation of a block of `w_in` input channels."""
        width = round(w_in * self.se_ratio)
        return _dense(bottleneck, width) + _dense(width, bottleneck) if width else Complexity()


@dataclass(frozen=True)
class RegNetArch(Stages):
    """The design parameters of one RegNet, and the network shape that follows from them.

    Args:
        depth: number of blocks, >= 1.
        w_0: width of the first block in channels, a positive multiple of 8.
        w_a: channels that the (unquantized) width grows by per block, >= 0.
        w_m: ratio of the widths of neighbouring stages, > 1.
        group_width: channels per group of the 3x3 convolutions, >= 1.
        bottleneck_ratio: bottleneck width over block width, > 0.
        se_ratio: width of squeeze-and-excitation over the block's input width, in [0, 1];
            0 leaves it out (RegNetX).
        stem_width: channels of the stem's output, >= 1.

    Attributes:
        stage_widths, stage_depths, stage_group_widths: of every stage, its output channels, its
            number of blocks, and the channels per group of its 3x3 convolutions.

    Raises:
        ValueError: a parameter is outside its range, or no network can be built from them.
    """

    depth: int
    w_0: int
    w_a: float
    w_m: float
    group_width: int
    bottleneck_ratio: float = 1.0
    se_ratio: float = 0.0
    stem_width: int = 32

    def __post_init__(self):
        for name in ("depth", "w_0", "group_width", "stem_width"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"RegNetArch: {name} must be a positive integer, not {value!r}")
        for name in ("w_a", "w_m", "bottleneck_ratio", "se_ratio"):
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
                raise ValueError(f"RegNetArch: {name} must be a finite number, not {value!r}")
        if self.w_0 % WIDTH_QUANTUM:
            raise ValueError(f"RegNetArch: w_0={self.w_0} is not a multiple of {WIDTH_QUANTUM}")
        if self.w_a < 0:
            raise ValueError(f"RegNetArch: w_a={self.w_a} is negative; widths cannot shrink")
        if self.w_m <= 1:
            raise ValueError(f"RegNetArch: w_m={self.w_m} must be above 1")
        if self.bottleneck_ratio <= 0:
            raise ValueError(f"RegNetArch: bottleneck_ratio={self.bottleneck_ratio} must be > 0")
        if not 0 <= self.se_ratio <= 1:
            raise ValueError(f"RegNetArch: se_ratio={self.se_ratio} is outside [0, 1]")
        for name in ("w_a", "w_m", "bottleneck_ratio", "se_ratio"):
            object.__setattr__(self, name, float(getattr(self, name)))  # yacs tells 8 from 8.0
        self._derive()
        for width, group_width in zip(self.stage_widths, self.stage_group_widths):
            bottleneck = round(width * self.bottleneck_ratio)
            if bottleneck % group_width:
                raise ValueError(
                    f"RegNetArch: a stage of width {width} has a bottleneck of {bottleneck} "
                    f"channels, which groups of {group_width} do not divide; change group_width "
                    "or bottleneck_ratio"
                )
        if self.se_ratio and not all(self.se_widths):
            raise ValueError(
                f"RegNetArch: se_ratio={self.se_ratio} leaves no channel for squeeze-and-"
                "excitation in the narrowest block; raise it, or set 0 to leave it out"
            )

    def _derive(self) -> None:
        """Sets the numbers of the stages: paper, eqs. 2 to 4, with widths and group widths that
        divide, as of pycls's `adjust_block_compatibility`."""
        continuous = np.arange(self.depth) * self.w_a + self.w_0
        exponents = np.round(np.log(continuous / self.w_0) / np.log(self.w_m))
        quantized = self.w_0 * np.power(self.w_m, exponents)
        quantized = np.round(quantized / WIDTH_QUANTUM).astype(int) * WIDTH_QUANTUM
        quantized, depths = np.unique(quantized, return_counts=True)
        widths, group_widths, ratio = [], [], self.bottleneck_ratio
        for width in quantized.tolist():
            bottleneck = int(max(1, width * ratio))
            group_width = min(self.group_width, bottleneck)
            multiple = math.lcm(group_width, int(ratio)) if ratio > 1 else group_width
            widths.append(int(self._to_multiple(bottleneck, multiple) / ratio))
            group_widths.append(int(group_width))
        object.__setattr__(self, "stage_widths", tuple(widths))
        object.__setattr__(self, "stage_depths", tuple(depths.tolist()))
        object.__setattr__(self, "stage_group_widths", tuple(group_widths))
        object.__setattr__(self, "stage_bottleneck_ratios", (ratio,) * len(widths))

    @staticmethod
    def _to_multiple(width: int, of: int) -> int:
        return max(of, round(width / of) * of)


class TorchvisionArch(RegNetArch):
    """A RegNet whose stage widths are fitted to its group widths as torchvision does it.

    Halves round up, and no width shrinks by more than a tenth (torchvision `_make_divisible`),
    which makes some of torchvision's RegNets wider than pycls's of the same parameters.
    """

    @staticmethod
    def _to_multiple(width: int, of: int) -> int:
        rounded = (2 * width + of) // (2 * of) * of
        return rounded if rounded >= 0.9 * width else rounded + of


def _half(side: int) -> int:
    return (side - 1) // 2 + 1


def _conv(w_in, w_out, kernel, h, w, groups=1) -> Complexity:
    """A convolution without bias, and its norm, at output size h x w."""
    weights = kernel * kernel * w_in * w_out // groups
    return Complexity(weights * h * w, weights + 2 * w_out, w_out * h * w)


def _dense(w_in, w_out) -> Complexity:
    """A linear layer, or a 1x1 convolution at size 1x1, with bias."""
    return Complexity(weights := w_in * w_out + w_out, weights, w_out)


_x, _y = RegNetArch, partial(RegNetArch, se_ratio=0.25)

# The paper's models (appendix, tables 5 and 6), as in pycls's configs/dds_baselines.
_PUBLISHED = {
    "RegNetX-200MF": _x(13, 24, 36.44, 2.49, 8),
    "RegNetX-400MF": _x(22, 24, 24.48, 2.54, 16),
    "RegNetX-600MF": _x(16, 48, 36.97, 2.24, 24),
    "RegNetX-800MF": _x(16, 56, 35.73, 2.28, 16),
    "RegNetX-1.6GF": _x(18, 80, 34.01, 2.25, 24),
    "RegNetX-3.2GF": _x(25, 88, 26.31, 2.25, 48),
    "RegNetX-4.0GF": _x(23, 96, 38.65, 2.43, 40),
    "RegNetX-6.4GF": _x(17, 184, 60.83, 2.07, 56),
    "RegNetX-8.0GF": _x(23, 80, 49.56, 2.88, 120),
    "RegNetX-12GF": _x(19, 168, 73.36, 2.37, 112),
    "RegNetX-16GF": _x(22, 216, 55.59, 2.1, 128),
    "RegNetX-32GF": _x(23, 320, 69.86, 2.0, 168),
    "RegNetY-200MF": _y(13, 24, 36.44, 2.49, 8),
    "RegNetY-400MF": _y(16, 48, 27.89, 2.09, 8),
    "RegNetY-600MF": _y(15, 48, 32.54, 2.32, 16),
    "RegNetY-800MF": _y(14, 56, 38.84, 2.4, 16),
    "RegNetY-1.6GF": _y(27, 48, 20.71, 2.65, 24),
    "RegNetY-3.2GF": _y(21, 80, 42.63, 2.66, 24),
    "RegNetY-4.0GF": _y(22, 96, 31.41, 2.24, 64),
    "RegNetY-6.4GF": _y(25, 112, 33.22, 2.27, 72),
    "RegNetY-8.0GF": _y(17, 192, 76.82, 2.19, 56),
    "RegNetY-12GF": _y(19, 168, 73.36, 2.37, 112),
    "RegNetY-16GF": _y(18, 200, 106.23, 2.48, 112),
    "RegNetY-32GF": _y(20, 232, 115.89, 2.53, 232),
}

# Not in the paper, but with public weights: SWAG's and SEER's larger ones, and those published
# ones that come out wider under torchvision's rounding.
_OTHERS = {
    "RegNetY-64GF": _y(20, 352, 147.48, 2.4, 328),
    "RegNetY-128GF": _y(27, 456, 160.83, 2.52, 264),
    "RegNetY-256GF": _y(27, 640, 230.83, 2.53, 373),
    **{
        f"{name}-torchvision": TorchvisionArch(**asdict(_PUBLISHED[name]))
        for name in ("RegNetX-400MF", "RegNetY-800MF", "RegNetY-8.0GF")
    },
}

_NAME = re.compile(
    r"regnet[-_ ]?([xy])[-_ ]?(\d+(?:[._]\d+)?)[-_ ]?([mg])f(?:[-_ ](torchvision))?", re.IGNORECASE
)


def _parse(name: str) -> tuple[str, float, bool] | None:
    """("X", 3200.0, False) for any spelling of RegNetX-3.2GF: family, MFLOPs, torchvision's."""
    match = _NAME.fullmatch(name.strip())
    if match is None:
        return None
    family, number, unit, torchvision = match.groups()
    scale = 1000 if unit.lower() == "g" else 1
    return family.upper(), round(float(number.replace("_", ".")) * scale, 6), bool(torchvision)


_BY_SIZE = {size: name for name in [*_PUBLISHED, *_OTHERS] if (size := _parse(name))}


def list_archs(others: bool = False) -> list[str]:
    """The names of the 24 published RegNets, RegNetX before RegNetY, small before large.

    Args:
        others: add those that only exist as weights: torchvision's, SWAG's and SEER's.
    """
    return [*_PUBLISHED, *_OTHERS] if others else list(_PUBLISHED)


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest of the `known` ones."""
    by_lower = {k.lower(): k for k in known}
    if nearest := difflib.get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.5):
        return f"the nearest are {', '.join(by_lower[k] for k in nearest)}"
    return f"known are {', '.join(by_lower.values())}"


def arch_name(name: str) -> str:
    """The published spelling of a RegNet's name.

    Case, separators and units are free: `regnetx_3.2gf`, `regnet_x_3_2gf` and `RegNetX-3200MF`
    all name `RegNetX-3.2GF`.

    Raises:
        ValueError: no published RegNet has this name; the message lists the nearest.
    """
    parsed = _parse(str(name))
    if parsed in _BY_SIZE:
        return _BY_SIZE[parsed]
    if parsed is None or not parsed[1]:
        raise ValueError(f"unknown RegNet {name!r}: {suggest(name, _PUBLISHED)}")
    family, size, _ = parsed
    nearest = sorted(
        (other for other in _BY_SIZE if other[0] == family),
        key=lambda other: abs(math.log(other[1] / size)),
    )
    names = ", ".join(_BY_SIZE[other] for other in nearest[:3])
    raise ValueError(f"unknown RegNet {name!r}: the nearest are {names}")


def is_arch_file(arch: object) -> bool:
    """Whether a RegNet is given as a YAML file of its parameters, not by a published name."""
    return isinstance(arch, str | os.PathLike) and os.fspath(arch).endswith((".yaml", ".yml"))


def get_arch(arch: "str | os.PathLike | Stages | Mapping") -> Stages:
    """The `RegNetArch` of a published name, of a YAML file, or of a mapping of its parameters.

    Args:
        arch: a name (see `arch_name`); the path of a .yaml file with the arguments of `RegNetArch`,
            one `key: value` a line; a mapping of them; or what is an arch already.

    Raises:
        ValueError: an unknown name, an unknown or missing parameter, or impossible parameters; the
            message names the file.
        FileNotFoundError: there is no such file.
    """
    if isinstance(arch, Stages):
        return arch
    if isinstance(arch, Mapping):
        return _from_parameters(arch)
    if is_arch_file(arch):
        return _from_file(arch)
    return (_PUBLISHED | _OTHERS)[arch_name(str(arch))]


def _from_parameters(parameters: Mapping) -> RegNetArch:
    known = [field.name for field in fields(RegNetArch)]
    for key in parameters:
        if key not in known:
            raise ValueError(f"unknown RegNet parameter {key!r}: {suggest(key, known)}")
    if missing := [key for key in known[:5] if key not in parameters]:  # have no default
        raise ValueError(f"RegNet parameters are missing: {', '.join(missing)}")
    return RegNetArch(**parameters)


def _from_file(path: str | os.PathLike) -> RegNetArch:
    try:
        with open(path, encoding="utf-8") as file:
            parameters = yaml.safe_load(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no file {path}: an arch is a published name such as RegNetX-3.2GF, or a "
            "YAML file with depth, w_0, w_a, w_m and group_width"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(parameters, Mapping):
        raise ValueError(f"{path} does not hold a RegNet's parameters, one `key: value` a line")
    try:
        return _from_parameters(parameters)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
