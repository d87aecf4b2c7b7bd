"""A disk that is full when a checkpoint is to be written: a small file system in memory where that
can be mounted (as root), else a limit on the size of files."""

import os
import random
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from d2_regnet.engine.checkpointer import Checkpointer

from .results import Result, Scale
from .trainings import config, final, finish, same, start

_TIMES = 20


def run(scale: Scale) -> Iterator[Result]:
    rng = random.Random(scale.seed)
    with _small_disk(scale.folder / "disk") as (folder, limited):
        yield from _single_files(scale, folder, limited, rng)
        yield from _trainings(scale, folder, limited, rng)


def _single_files(scale, folder, limited, rng) -> Iterator[Result]:
    """Checkpoints of which a random part finds room."""
    run = folder / "single"
    run.mkdir()
    model = torch.nn.Linear(300, 300)
    checkpointer = Checkpointer(model, str(run))
    checkpointer.save("model_0000001", iteration=1)
    good = run / "model_0000001.pth"
    content = good.read_bytes()
    for _ in range(scale.of(_TIMES)):
        with limited(rng.randrange(len(content) - 8192)):  # whole pages are left free
            try:
                checkpointer.save("model_0000003", iteration=3)
                text = ""
            except OSError as error:
                text = str(error)
        left = {path.name for path in run.iterdir()}
        said = "model_0000003.pth" in text and ("space" in text or "large" in text)
        yield Result(
            "full disk at a random byte of a checkpoint",
            "an error names the file and the reason; earlier checkpoints are whole",
            "nothing",
            said
            and left == {"model_0000001.pth", "last_checkpoint"}
            and good.read_bytes() == content
            and checkpointer.newest() == str(good),
            f"{text} {left}",
        )


def _trainings(scale, folder, limited, rng) -> Iterator[Result]:
    """A training whose disk is full, and which goes on when there is room again."""
    whole = config(scale.folder / "whole_disk")
    finish(whole)
    for number in range(scale.of(3)):
        cfg = config(folder / f"run{number}")
        size = os.path.getsize(scale.folder / "whole_disk" / "model_final.pth")
        # Room for the logs and, on a small disk, for a checkpoint or two.
        room = size * rng.uniform(0.7, 0.95) if limited is _limit else 2 * size + 150_000
        output = scale.folder / f"run{number}.out"
        with limited(int(room)):
            child = start(cfg, output=output)
            code, last = child.wait(), child.error()
        stopped = code == 1 and last.startswith("error: ") and "cannot be written" in last
        equal = finish(cfg, output=output) == 0 and same(final(cfg), final(whole))
        yield Result(
            "full disk in a training",
            "stops with one line and code 1; resumed, it ends bitwise as undisturbed",
            "at most an interval",
            stopped and equal,
            f"{code} {last} {equal}",
        )
        for path in Path(cfg.train.output_dir).iterdir():
            path.unlink()


@contextmanager
def _small_disk(folder: Path) -> Iterator[tuple]:
    """Yields a folder and a context manager that leaves so many bytes free in it."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        yield folder, _limit
        return

    @contextmanager
    def fill(left: int):
        free = os.statvfs(folder)
        filler = folder / "filler"
        pages = max(0, free.f_bavail - -(-left // free.f_bsize))
        filler.write_bytes(bytes(pages * free.f_bsize))
        try:
            yield
        finally:
            filler.unlink()

    try:
        yield folder, fill
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def _limit(size: int) -> Iterator[None]:
    """No file of this process and its children may grow beyond `size` bytes."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an OSError in place of the end
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, handler)
