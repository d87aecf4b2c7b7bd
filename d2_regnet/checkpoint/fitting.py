"""What of a checkpoint a model takes, told by loading it as Detectron2 does."""

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .loading import SafeCheckpointer, local_file

__all__ = ["BACKBONE", "DETECTOR", "SCRATCH", "Fit", "load_fitting", "same_names"]

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
        classes: the names of the checkpoint's classes, by index; empty if it has none.
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

    def check(
        self,
        weights: str,
        *,
        whole: bool,
        allow_missing: bool | None = False,
        classes: Sequence[str] = (),
    ) -> tuple[str, ...]:
        """
        Args:
            weights: what the user calls them.
            whole: they are to be evaluated, so nothing may be missing; a training may begin with
                a whole backbone.
            allow_missing: anything may be, and differ; None: there is no flag to say so.
            classes: the names of the data set's classes, in the model's order; empty if unknown.

        Returns:
            What a training may differ in, and its user should know: a sentence each.

        Raises:
            ValueError: naming the layers that would stay at random values, or how the images or
                the classes differ that these weights were trained on.
        """
        lacking = self.anew if whole else self.backbone_lacks
        if lacking and not allow_missing:
            of = "the model" if whole else "its backbone"
            only = " (it is only a backbone)" if self.start == BACKBONE and whole else ""
            raise ValueError(
                f"{weights} has no values, or none of their shape, for {len(lacking)} layers of "
                f"{of}, which would stay random{only}: {_some(lacking)}. Give the weights of this "
                "model and its number of classes"
                + (", or pass --allow-missing" if allow_missing is False else "")
            )
        differ, permuted = self._other_classes(classes)
        said = self.contradictions + differ
        if said and (whole or permuted) and not allow_missing:
            raise ValueError(f"{weights}: {'; '.join(said if whole else differ)}")
        return said

    def _other_classes(self, classes: Sequence[str]) -> tuple[tuple[str, ...], bool]:
        """How a data set's classes differ from the weights', and whether in order alone."""
        if self.start != DETECTOR or len(classes) != len(self.classes):
            return (), False  # another number: these layers begin anew, as in most fine-tunings
        if same_names(classes, self.classes):
            return (), False
        permuted = same_names(*(sorted(names, key=_plain) for names in (classes, self.classes)))
        pairs = enumerate(zip(classes, self.classes))
        first = next(i for i, (one, other) in pairs if not same_names([one], [other]))
        text = (
            f"the weights' classes are {'those' if permuted else 'not those'} of the data set"
            f"{' in another order' if permuted else ''}: class {first + 1} is "
            f"{self.classes[first]!r} in the weights, and {classes[first]!r} in the data set"
        )
        order = ": give its categories ids in the weights' order, or use `d2-regnet finetune` or "
        order += "`evaluate --data`, which go by the names"
        return (text + (order if permuted else ""),), permuted


def load_fitting(model: nn.Module, weights: str) -> Fit:
    """Loads a checkpoint into a model as Detectron2's checkpointer does, and says what was taken.

    Args:
        model: changed in place.
        weights: a file or an address, which is fetched into the cache; empty for none.

    Raises:
        ValueError: nothing of it fits, or it is not a checkpoint.
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
    checkpointer = SafeCheckpointer(model)
    with _quiet():
        checkpointer.load(f"{path}?{query}" if query else path, checkpointables=[])
    meta = checkpointer.meta
    missing = set(checkpointer.incompatible.missing_keys)
    wanted = [n for n in model.state_dict() if not n.endswith("num_batches_tracked")]
    kept = [name for name in wanted if name not in missing]
    if not kept:
        raise ValueError(
            f"{weights} has nothing of this model: give weights of the same detector or backbone; "
            "`d2-regnet convert` converts those of other projects"
        )
    state = model.state_dict()
    broken = [n for n in kept if state[n].is_floating_point() and not state[n].isfinite().all()]
    if broken:
        raise ValueError(
            f"{weights}: {len(broken)} of {len(kept)} tensors are not finite, such "
            f"as {broken[0]}: its training diverged; take an earlier one"
        )
    backbone = _BOTTOM_UP if any(name.startswith(_BOTTOM_UP) for name in wanted) else "backbone."
    lacking = [
        n for n in wanted if n in missing and n.startswith(backbone) and not _MAY_LACK.search(n)
    ]
    detector = any(not name.startswith("backbone.") for name in kept)
    run = meta.get("run")
    classes = meta.get("classes") or (run.get("classes") if isinstance(run, dict) else None)
    return Fit(
        DETECTOR if detector else BACKBONE,
        len(kept),
        len(wanted),
        _layers(name for name in wanted if name in missing),
        _layers(lacking),
        tuple(_contradictions(model, meta)),
        tuple(map(str, classes)) if isinstance(classes, list | tuple) else (),
    )


def _contradictions(model: nn.Module, meta: Mapping) -> Iterator[str]:
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


def same_names(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two lists of class names are the same, however a tool writes them."""
    return list(map(_plain, one)) == list(map(_plain, other))


def _plain(name: str) -> str:
    """A class's name, however the tools write it: "Traffic_light" is "traffic light"."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


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
