"""What of a checkpoint a model takes, told by loading it as Detectron2 does."""

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .loading import SafeCheckpointer, local_file
from .reading import read

__all__ = ["BACKBONE", "DETECTOR", "SCRATCH", "Fit", "load_fitting"]

DETECTOR, BACKBONE, SCRATCH = "a trained detector", "a backbone alone", "random values"
_SHOWN = 6
_BOTTOM_UP = "backbone.bottom_up."
# A backbone without deformable convolutions begins one that has them: their offsets begin at 0.
_MAY_LACK = re.compile(r"\.conv_offset\.(weight|bias)$")


@dataclass(frozen=True)
class Fit:
    """
    Attributes:
        start: `DETECTOR`, `BACKBONE` or `SCRATCH`.
        kept, total: how many of the model's tensors have values in the checkpoint, of how many.
        anew: the layers that have none, or of another shape, so begin at random.
        backbone_lacks: those of them that are the backbone's own.
        contradictions: what the checkpoint says of the images it was trained on, and the model is
            not set to: a sentence each.
        classes: the names of the checkpoint's classes, by index; empty where it has none.
    """

    start: str
    kept: int = 0
    total: int = 0
    anew: tuple[str, ...] = ()
    backbone_lacks: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.start == SCRATCH or not self.total:
            return self.start
        text = f"{self.start}: {self.kept} of {self.total} tensors"
        return f"{text}; starting at random: {_some(self.anew)}" if self.anew else text

    def check(self, weights: str, *, whole: bool, allow_missing: bool = False) -> None:
        """
        Args:
            weights: what the user calls them.
            whole: they are to be evaluated, so nothing may be missing; a training may begin with
                a whole backbone.
            allow_missing: anything may be.

        Raises:
            ValueError: naming the layers that would stay at random values, or how the images
                differ that these weights were trained on.
        """
        lacking = self.anew if whole else self.backbone_lacks
        if lacking and not allow_missing:
            of = "the model" if whole else "its backbone"
            raise ValueError(
                f"{weights} has no values, or none of their shape, for {len(lacking)} layers of "
                f"{of}, which would stay random: {_some(lacking)}. Give the weights of this "
                "model and its number of classes, or pass --allow-missing"
            )
        if whole and self.contradictions and not allow_missing:
            raise ValueError(f"{weights}: {'; '.join(self.contradictions)}")


def load_fitting(model: nn.Module, weights: str) -> Fit:
    """Loads a checkpoint into a model as Detectron2's checkpointer does, and says what was taken.

    Args:
        model: changed in place.
        weights: a file or an address, which is fetched into the cache; empty for none.

    Raises:
        ValueError: nothing of it fits, or it is no checkpoint.
        FileNotFoundError: there is no such file, or it cannot be fetched.
    """
    if not weights:
        return Fit(SCRATCH)
    path = local_file(
        weights,
        "weights",
        "begin with random values (fine-tuning: --weights none; training: "
        "train.init_checkpoint='')",
    )
    query = weights.partition("?")[2]
    meta = read(path).meta
    checkpointer = SafeCheckpointer(model)
    with _quiet():
        checkpointer.load(f"{path}?{query}" if query else path, checkpointables=[])
    missing = set(checkpointer.incompatible.missing_keys)
    wanted = [n for n in model.state_dict() if not n.endswith("num_batches_tracked")]
    kept = [name for name in wanted if name not in missing]
    if not kept:
        raise ValueError(
            f"{weights} has nothing of this model: give weights of the same detector or backbone; "
            "`d2-regnet convert` converts those of other projects"
        )
    body = _BOTTOM_UP if any(name.startswith(_BOTTOM_UP) for name in wanted) else "backbone."
    lacking = [n for n in wanted if n in missing and n.startswith(body) and not _MAY_LACK.search(n)]
    detector = any(not name.startswith("backbone.") for name in kept)
    classes = meta.get("classes")
    return Fit(
        DETECTOR if detector else BACKBONE,
        len(kept),
        len(wanted),
        _layers(name for name in wanted if name in missing),
        _layers(lacking),
        tuple(_contradictions(model, meta)),
        tuple(map(str, classes)) if isinstance(classes, Sequence) else (),
    )


def _contradictions(model: nn.Module, meta: dict) -> Iterator[str]:
    """Where a converted checkpoint's metadata tell of other images than the model takes."""
    order, own = meta.get("input_format"), getattr(model, "input_format", None)
    if order in ("BGR", "RGB") and own in ("BGR", "RGB") and order != own:
        yield (
            f"the weights were trained on {order} images, the config's are {own}: convert the "
            f"original with `d2-regnet convert --input-format {own}`"
        )
    for key in ("pixel_mean", "pixel_std"):
        said, used = meta.get(key), getattr(model, key, None)
        used = None if used is None else used.flatten()
        if not isinstance(said, list | tuple) or used is None or len(said) != used.numel():
            continue
        # In any order of the channels, which is said above.
        both = (torch.tensor(each).float().sort().values for each in (said, used.tolist()))
        if not torch.allclose(*both, rtol=0.01):
            numbers = f"[{', '.join(f'{value:g}' for value in said)}]"
            yield f"the weights were trained with {key} {numbers}: set model.{key} to it"


def _layers(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _some(layers: Sequence[str]) -> str:
    more = f" and {len(layers) - _SHOWN} more" if len(layers) > _SHOWN else ""
    return ", ".join(layers[:_SHOWN]) + more


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the checkpointer's lines, which the training that follows prints as well."""
    loggers = [logging.getLogger(name) for name in ("fvcore", "detectron2")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(loggers, before):
            each.setLevel(level)
