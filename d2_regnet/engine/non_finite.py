"""Steps whose losses or gradients are not finite: named, saved for replay, left out or the end."""

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.utils import comm
from torch import nn

from d2_regnet.utils.files import whole_file

__all__ = ["NonFinite", "describe_gradients", "describe_losses"]

logger = logging.getLogger(__name__)


@dataclass
class NonFinite:
    """What happens at a step whose losses or gradients are not finite.

    Attributes:
        folder: where batches are saved for `d2-regnet replay`; empty: they are not.
        skip: so many such steps in a row are left out, as if they had not been; the next one is the
            end.
        save: at most so many batches are in the folder.
        in_a_row: how many steps were left out just now.
    """

    folder: str = ""
    skip: int = 0
    save: int = 3
    in_a_row: int = 0

    def left_out(self, step: int, problem: str | None, saved: Mapping) -> bool:
        """Whether a step is left out, the same in all processes; to be called by all of them.

        Args:
            step: its number.
            problem: what is not finite in this process, None if all is well.
            saved: what `d2_regnet.engine.replay` needs, to be saved where there is a problem.

        Raises:
            FloatingPointError: more than `skip` steps in a row.
        """
        problems = comm.all_gather(problem)
        if not any(problems):
            return False
        self.in_a_row += 1
        told = [f"process {rank}: {each}" for rank, each in enumerate(problems) if each]
        text = "; ".join(told).removeprefix("process 0: " if len(problems) == 1 else "")
        text = f"step {step}: {text}{self._saved(step, saved) if problem else ''}"
        if self.in_a_row > self.skip:
            comm.synchronize()  # where one process ends, its launcher ends those that still save
            raise FloatingPointError(text)
        logger.warning("Left out (%d in a row, at most %d): %s", self.in_a_row, self.skip, text)
        return True

    def _saved(self, step: int, content: Mapping) -> str:
        """Saves a batch, if there are not enough of them; says where, for the end of a line."""
        if not self.folder or not self.save:
            return ""
        folder = Path(self.folder)
        path = folder / f"step_{step:07d}_rank{comm.get_rank()}.pth"
        if folder.is_dir() and len(list(folder.glob("*.pth"))) >= self.save and not path.exists():
            return f"; not saved, {folder} has {self.save} batches"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                torch.save(dict(content), file)
        except (OSError, RuntimeError) as error:
            return f"; the batch could not be saved ({error})"
        return f"; to look into it: d2-regnet replay {path}"


def describe_losses(losses: Mapping[str, torch.Tensor]) -> str | None:
    """Says what each loss is; None if their sum is finite."""
    if not losses or torch.isfinite(sum(losses.values())):
        return None
    values = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
    return f"the loss is not finite: {values}"


def describe_gradients(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> str | None:
    """Names parameters with a gradient that is not finite; None if all are."""
    grads = {name: p.grad for name, p in named_parameters if p.grad is not None}
    if not grads or torch.isfinite(torch.stack([g.norm() for g in grads.values()]).norm()):
        return None
    bad = [name for name, grad in grads.items() if not torch.isfinite(grad).all()]
    if not bad:
        return "the gradients, of finite losses, are too large for their norm"
    some = ", ".join(bad[-3:])  # the last are the nearest to the losses
    return (
        f"the losses are finite, but the gradients are not: of {len(bad)} of {len(grads)} "
        f"parameters, such as {some}"
    )


def pictures(batch) -> list[str]:
    """The file names of a batch, where it has any."""
    records = batch if isinstance(batch, list) else []
    return [os.fspath(r["file_name"]) for r in records if isinstance(r, dict) and "file_name" in r]
