"""Checkpoints that are whole or absent, and the newest good one of a folder."""

import logging
import os
import re
import shutil
import zipfile
from pathlib import Path

import torch
from detectron2.engine import hooks
from detectron2.utils import comm

from d2_regnet.checkpoint import SafeCheckpointer
from d2_regnet.checkpoint import read as read_checkpoint
from d2_regnet.model_zoo.loading import BEST_WEIGHTS
from d2_regnet.utils.files import whole_file, write_file

__all__ = ["Checkpointer", "PeriodicCheckpointer", "find_checkpoint"]

logger = logging.getLogger(__name__)
_NUMBERED = re.compile(r"model_(\d+)\.pth")


def find_checkpoint(folder: str | os.PathLike) -> tuple[str, list[str]]:
    """The checkpoint to resume from: the one that `last_checkpoint` names, if it is undamaged, else
    the newest `model_*.pth` that is.

    A file is read whole: torch.save writes a checksum of all that it stores, which torch.load does
    not look at.

    Returns:
        Its path, empty if the folder has none; and what is wrong with those passed over.

    Raises:
        ValueError: there are some, but none is good.
    """
    folder = Path(folder)
    tag = folder / "last_checkpoint"
    paths = [
        path for path in folder.glob("model_*.pth") if path.name != BEST_WEIGHTS
    ]  # weights alone
    paths.sort(key=_step, reverse=True)
    problems = []
    if tag.is_file():
        try:
            name = tag.read_text().strip()
        except UnicodeDecodeError:
            name = "\0"
        if not name or not name.isprintable():
            problems.append(f"{tag} is damaged: it holds no name")
        else:
            named = folder / name
            paths = [named, *(path for path in paths if path != named)]
    for path in paths:
        problem = damage(path)
        if not problem:
            return str(path), problems
        problems.append(problem)
    if problems:
        raise ValueError(
            f"no checkpoint of {folder} can be resumed: {'; '.join(problems)}. Put a good one "
            "there and its name into last_checkpoint, or train without --resume"
        )
    return "", []


def damage(path: str | os.PathLike) -> str:
    """What is wrong with a checkpoint file, with its name; empty if nothing is."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if (entry := archive.testzip()) is not None:
                    return f"{path} is damaged: the checksum of {entry} is wrong"
    except Exception as error:  # a damaged zip file can raise anything
        return f"{path} is damaged: {type(error).__name__}: {error}"
    try:
        read_checkpoint(path)
    except (FileNotFoundError, ValueError) as error:
        return str(error)  # it names the file
    return ""


def _step(path: Path) -> int:
    """The step that a checkpoint is of, without a look at its tensors; -1 where it does not say."""
    if match := _NUMBERED.fullmatch(path.name):
        return int(match[1])
    try:
        return int(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["iteration"])
    except Exception:  # damaged, or of another origin
        return -1


class Checkpointer(SafeCheckpointer):
    """Detectron2's checkpointer, except that a file appears under its name only when complete, and
    that it resumes from the newest undamaged one.

    What it writes is the same, and `last_checkpoint` names a file that is entirely on disk. It
    reads safetensors, too. With a checkpointable `average`, that is the model of its files.
    """

    def weights(self) -> dict[str, torch.Tensor]:
        """What a checkpoint has as its model."""
        average = self.checkpointables.get("average")
        return average.weights() if average else self.model.state_dict()

    def save(self, name: str, **kwargs) -> None:
        """Writes the model, the checkpointables and `kwargs` to `<save_dir>/<name>.pth`.

        Raises:
            OSError: it cannot be written; all checkpoints are as they were.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: value.state_dict() for key, value in self.checkpointables.items()}
        self._write(f"{name}.pth", {"model": self.weights(), **states, **kwargs}, newest=True)

    def save_best(self, **kwargs) -> None:
        """Writes the model and `kwargs`, and nothing to resume from, to `model_best.pth`.

        Raises:
            OSError: it cannot be written; all checkpoints are as they were.
        """
        if self.save_dir and self.save_to_disk:
            self._write(BEST_WEIGHTS, {"model": self.weights(), **kwargs}, newest=False)

    def _write(self, name: str, data: dict, newest: bool) -> None:
        path = os.path.join(self.save_dir, name)
        self.logger.info(f"Saving checkpoint to {path}")
        try:
            with whole_file(path) as file:
                torch.save(data, file)
            if newest:
                self.tag_last_checkpoint(name)
        except (OSError, RuntimeError) as error:  # torch.save makes the latter of the former
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            raise OSError(
                f"the checkpoint {path} cannot be written ({cause}); the earlier ones are as they "
                "were: make room, and continue with --resume"
            ) from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_file(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)

    def newest(self) -> str:
        """`find_checkpoint` in `save_dir`, which warns of what it passes over.

        To be called by all processes; they get what the first one finds.

        Raises:
            ValueError: there are checkpoints, but none is good.
        """
        path, problems, error = "", [], None
        if comm.is_main_process():
            try:
                path, problems = find_checkpoint(self.save_dir)
            except ValueError as raised:
                error = str(raised)
        path, error = comm.all_gather((path, error))[0]
        if error:
            raise ValueError(error)
        for problem in problems:
            logger.warning("Passed over: %s", problem)
        if problems:
            logger.warning("Resuming from the newest good checkpoint, %s", path)
        return path

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """As Detectron2's; `resume` takes the `newest` checkpoint, if there is one."""
        newest = self.newest() if resume else ""
        return self.load(newest) if newest else self.load(path, checkpointables=[])

    def finish(self) -> None:
        """Has the newest checkpoint as `model_final.pth`, if a kill has kept it from being that."""
        newest, final = self.newest(), Path(self.save_dir, "model_final.pth")
        if self.save_to_disk and Path(newest) != final:
            with open(newest, "rb") as source, whole_file(final) as file:
                shutil.copyfileobj(source, file)
            self.tag_last_checkpoint(final.name)

    def forget(self, *names: str) -> None:
        """Removes files that a former training may have left in the folder."""
        for name in names if self.save_to_disk else ():
            Path(self.save_dir, name).unlink(missing_ok=True)

    def remove_partial(self) -> None:
        """Removes what a killed process left of files that it was writing."""
        if self.save_to_disk:
            for path in Path(self.save_dir).glob(".*.partial"):
                path.unlink(missing_ok=True)

    def numbered(self, before: int) -> list[str]:
        """The paths of the checkpoints of steps below `before`, oldest first."""
        found = [path for path in Path(self.save_dir).iterdir() if _NUMBERED.fullmatch(path.name)]
        return [str(path) for path in sorted(found, key=_step) if _step(path) < before]


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's, whose `max_to_keep` also counts the checkpoints from before a restart.

    An old checkpoint is deleted only after a new one has been written.
    """

    def before_train(self):
        super().before_train()
        if self.max_to_keep and self.trainer.start_iter > 0:
            self.recent_checkpoints = self.checkpointer.numbered(before=self.trainer.start_iter)

    def step(self, iteration: int, **kwargs):
        super().step(iteration, **kwargs)
        if self.max_to_keep and (iteration + 1) % self.period == 0:
            while len(self.recent_checkpoints) > self.max_to_keep:
                Path(self.recent_checkpoints.pop(0)).unlink(missing_ok=True)
