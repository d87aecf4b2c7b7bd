"""The demo's training: its config, its folder, and what it prints on the way."""

import io
import os
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TextIO

from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from omegaconf import DictConfig

from d2_regnet.data import register_shapes
from d2_regnet.engine import ProgressLine, load_config, train

from .pictures import draw_curves, draw_pictures
from .summary import SUMMARY, TASKS, summarize, write_summary

_GONE_ON_FROM = ("config.yaml", "last_checkpoint", "model_*.pth", "metrics.json")


def configure(
    config: str | os.PathLike,
    output: str | os.PathLike,
    *,
    seed: int,
    train_images: int,
    val_images: int,
    steps: int | None = None,
) -> DictConfig:
    """The config of a demo; makes no image yet.

    Args:
        config: a LazyConfig for the built-in shapes.
        output: the run's folder.
        seed: of the data, the weights, their order; 0 or more.
        train_images, val_images: how many to learn from, and to be tested on.
        steps: of training; the config's by default.

    Raises:
        ValueError: a seed, or a number of images or steps, that cannot be.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"--steps must be at least 1, not {steps}")
    names = register_shapes(seed, {"train": train_images, "val": val_images})
    cfg = load_config(str(config))
    cfg.dataloader.train.dataset.names, cfg.dataloader.test.dataset.names = names
    cfg.train.update(seed=seed, output_dir=str(output))
    if steps is not None:
        cfg.train.update(max_iter=steps, eval_period=max(1, steps // 4))
    return cfg


def check_same_run(cfg: DictConfig) -> None:
    """Refuses to go on with a run of other settings, which would be neither the one nor the other.

    Raises:
        ValueError: the config's folder holds such a run.
    """
    file = Path(cfg.train.output_dir, "config.yaml")
    if not file.exists():
        return
    there, asked = _identity(LazyConfig.load(str(file))), _identity(cfg)
    for key in asked:
        if there[key] != asked[key]:
            raise ValueError(
                f"{file.parent} holds a run with {key} {there[key]}, not {asked[key]}: choose "
                "another folder with --output (make demo OUTPUT=...), or discard that run with "
                "--restart"
            )


def _identity(cfg: DictConfig) -> dict:
    """What makes two runs one and the same."""
    loader = cfg.dataloader
    return {
        "seed": cfg.train.seed,
        "steps": cfg.train.max_iter,
        "data": (loader.train.dataset.names, loader.test.dataset.names),
    }


def discard(folder: Path) -> None:
    """Removes what a run would go on from; the rest of its files the next one overwrites."""
    for pattern in (SUMMARY, *_GONE_ON_FROM):
        for file in folder.glob(pattern):
            file.unlink()


def make_data(cfg: DictConfig) -> None:
    """Makes what is not yet in the cache; loading it costs next to nothing."""
    for name in (cfg.dataloader.train.dataset.names, cfg.dataloader.test.dataset.names):
        file = Path(MetadataCatalog.get(name).json_file)
        if not file.exists():
            print(f"Making the images in {file.parent} ...", flush=True)
            DatasetCatalog.get(name)


def run(cfg: DictConfig) -> None:
    """Trains, or goes on training, evaluates and draws, in the config's folder.

    Raises:
        Interrupted: a signal ended the training; calling it again goes on.
    """
    folder = Path(cfg.train.output_dir)
    stopwatch = Stopwatch()
    if (folder / "last_checkpoint").exists():
        print(f"Going on with the run in {folder}.")
    screen = sys.stdout
    hooks = [stopwatch, ProgressLine(cfg.train.log_period, screen), ReportAP(screen)]
    with redirect_stdout(io.StringIO()):  # pycocotools prints a lot
        results = train(cfg, resume=True, hooks=hooks, console=False)
    print("Drawing ...", flush=True)
    draw_pictures(cfg.dataloader.test.dataset.names, folder)
    draw_curves(folder)
    # Last: with it the run is complete.
    write_summary(summarize(results, stopwatch.seconds, cfg), folder)


class Stopwatch(HookBase):
    """Seconds spent in training steps, over all the parts of an interrupted run."""

    def __init__(self):
        self.seconds = 0.0

    def before_step(self):
        self._start = time.perf_counter()

    def after_step(self):
        self.seconds += time.perf_counter() - self._start

    def state_dict(self):
        return {"seconds": self.seconds}

    def load_state_dict(self, state):
        self.seconds = state["seconds"]


class ReportAP(HookBase):
    """Prints a line after each evaluation, and one before the last."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def after_step(self):
        if self.trainer.iter + 1 == self.trainer.max_iter:
            self._print("Evaluating ...")
            return
        latest = self.trainer.storage.latest()
        found = {name: latest.get(f"{task}/AP", (0, -1)) for name, task in TASKS.items()}
        if all(step == self.trainer.iter for _, step in found.values()):
            text = ", ".join(f"{name} AP {value:.1f}" for name, (value, _) in found.items())
            self._print(f"evaluated after {self.trainer.iter + 1} steps: {text}")

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)
