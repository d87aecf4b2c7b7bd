"""From a file of any known source to a Detectron2 checkpoint that is right, or a reason why not."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from d2_regnet.archs import arch_name, suggest

from . import mmdet, sources
from .backbone import Mapped, State
from .reading import read
from .writing import check_destination, write

# Each has `matches(state)` and `convert(state, meta)`.
SOURCES = {
    "pycls": sources.pycls,
    "torchvision": sources.torchvision,
    "timm": sources.timm,
    "vissl": sources.vissl,
    "mmdet": mmdet,
}

INPUT_FORMATS = ("BGR", "RGB")


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        source: a name in `SOURCES`.
        arch: name of the network.
        mapped: source name -> target name of every tensor that was converted.
        dropped: source name -> why it was left out on purpose.
        input_format: channel order of the images that the written weights expect.
        pixel_mean, pixel_std: per channel in that order, on pixels of 0 to 255.
        sha256: hex digest of the file that was converted.
        dst: the file that was written.
        classes: the names of a detector's classes, by index; empty if the file has none.
    """

    source: str
    arch: str
    mapped: Mapping[str, str]
    dropped: Mapping[str, str]
    input_format: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    sha256: str
    dst: str
    classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.dst}: {self.arch} from {self.source}, {len(self.mapped)} tensors mapped, "
            f"{len(self.dropped)} dropped",
            f"images: {self.input_format}, mean {list(self.pixel_mean)}, "
            f"std {list(self.pixel_std)}",
        ]
        if self.classes:
            lines.append(f"classes ({len(self.classes)}): {_some(self.classes)}")
        for reason in sorted(set(self.dropped.values())):
            names = [name for name, why in self.dropped.items() if why == reason]
            lines.append(f"dropped {len(names)} ({reason}): {_some(names)}")
        return "\n".join(lines)


def convert(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    source: str | None = None,
    arch: str | None = None,
    input_format: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Report:
    """Converts a checkpoint file to one that Detectron2 loads.

    Args:
        src: the file to convert, see `reading.read`.
        dst: the file to write, `.pth`, `.safetensors` or `.pkl`.
        source: a name in `SOURCES`; recognised from the tensors' names by default.
        arch: name of the network; recognised from the tensors' names and shapes by default.
        input_format: "BGR" or "RGB"; the first convolution is rewritten so that the same image,
            its channels in this order, gives the same features. The source's own by default.
        overwrite: replace an existing `dst`.
        dry_run: do everything but write `dst`.

    Raises:
        FileNotFoundError: there is no `src`, or no folder for `dst`.
        FileExistsError: there is a `dst` already.
        ValueError: `src` cannot be converted, or is not what the arguments say; nothing is
            written.
        OSError: `dst` cannot be written; it is left as it was.
    """
    check_destination(src, dst, overwrite)
    checkpoint = read(src)
    try:
        source, mapped = convert_state(
            checkpoint.state,
            checkpoint.meta,
            source=source,
            arch=arch,
            input_format=input_format,
        )
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from error
    report = Report(
        source,
        mapped.arch,
        mapped.mapped,
        {**mapped.dropped, **checkpoint.dropped},
        mapped.input_format,
        mapped.pixel_mean,
        mapped.pixel_std,
        checkpoint.sha256,
        os.fspath(dst),
        mapped.classes,
    )
    if not dry_run:
        write(mapped.state, _metadata(report, mapped), dst)
    return report


def _metadata(report: Report, mapped: Mapped) -> dict[str, Any]:
    """What the written file says of itself."""
    return {
        "arch": report.arch,
        "source": report.source,
        "source_sha256": report.sha256,
        "input_format": report.input_format,
        "pixel_mean": list(report.pixel_mean),
        "pixel_std": list(report.pixel_std),
        # Detectron2 then finds a backbone's tensors inside any model that contains it.
        "matching_heuristics": mapped.backbone,
        **({"classes": list(mapped.classes)} if mapped.classes else {}),
    }


def convert_state(
    state: State,
    meta: Mapping[str, Any] | None = None,
    *,
    source: str | None = None,
    arch: str | None = None,
    input_format: str | None = None,
) -> tuple[str, Mapped]:
    """Converts a state dict: `convert` without the files.

    Args:
        state: the source's names and tensors.
        meta: what lay beside them in their file, see `reading.Checkpoint`.
        source: as in `convert`.
        arch: as in `convert`.
        input_format: as in `convert`.

    Returns:
        The name of the source, and what was made of it, checked against the real model.

    Raises:
        ValueError: as `convert`.
    """
    if input_format not in (None, *INPUT_FORMATS):
        raise ValueError(f"input format {input_format!r} is not one of {', '.join(INPUT_FORMATS)}")
    meta = meta or {}
    source = _source(state, meta, source)
    mapped = SOURCES[source].convert(state, meta)
    if arch and arch.lower() != mapped.arch.lower() and (wanted := arch_name(arch)) != mapped.arch:
        raise ValueError(
            f"arch {wanted} contradicts the file, whose tensors are those of {mapped.arch}"
        )
    _check(state, mapped)
    return source, with_input_format(mapped, input_format or mapped.input_format)


def with_input_format(mapped: Mapped, input_format: str) -> Mapped:
    """The `mapped` weights for images in `input_format`: the same features of the same image."""
    if input_format == mapped.input_format:
        return mapped
    state = dict(mapped.state)
    state[mapped.stem] = state[mapped.stem].flip(1)
    return replace(
        mapped,
        state=state,
        input_format=input_format,
        pixel_mean=mapped.pixel_mean[::-1],
        pixel_std=mapped.pixel_std[::-1],
    )


def _source(state: State, meta: Mapping[str, Any], wanted: str | None) -> str:
    if wanted is not None and wanted not in SOURCES:
        raise ValueError(f"unknown source {wanted!r}: {suggest(wanted, SOURCES)}")
    if "source_sha256" in meta or any(name.startswith("backbone.bottom_up.") for name in state):
        raise ValueError("is a Detectron2 checkpoint already: load it as it is")
    found = [name for name, source in SOURCES.items() if source.matches(state)]
    if wanted in found:
        return wanted
    if not found:
        raise ValueError(f"has the names of no known source ({', '.join(SOURCES)}): {_some(state)}")
    if wanted is not None:
        raise ValueError(f"source {wanted} contradicts the file, whose names are {found[0]}'s")
    return found[0]


def _check(state: State, mapped: Mapped) -> None:
    """That every tensor is accounted for, and that the result fits the model and is sound.

    Raises:
        ValueError: on the first thing that is wrong, naming the tensors.
    """
    if missing := [name for name in mapped.shapes if name not in mapped.state]:
        raise ValueError(f"lacks tensors of {mapped.arch} ({len(missing)}): {_some(missing)}")
    if extra := [n for n in state if n not in mapped.mapped and n not in mapped.dropped]:
        raise ValueError(
            f"has tensors that {mapped.arch} does not have ({len(extra)}): {_some(extra)}"
        )
    for name, shape in mapped.shapes.items():
        if (found := tuple(mapped.state[name].shape)) != shape:
            raise ValueError(
                f"{name} has shape {list(found)}; in {mapped.arch} it is {list(shape)}"
            )
    for name, tensor in mapped.state.items():
        if tensor.dtype != torch.float32:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"{name} is {dtype}, not float32: save the model as float32")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")
        if name.endswith("running_var") and (tensor < 0).any():
            raise ValueError(f"{name} has negative variances")


def _some(names: Iterable[str]) -> str:
    """The first of many names, which may be anything, for a message of one line."""
    names = list(names)
    shown = [
        name if name.isprintable() and len(name) < 100 else ascii(name)[:100] for name in names[:3]
    ]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")
