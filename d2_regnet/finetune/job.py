"""A fine-tuning from its inputs to its report."""

import contextlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from omegaconf import DictConfig

from d2_regnet import model_zoo
from d2_regnet.checkpoint.fitting import BACKBONE, DETECTOR, SCRATCH, Fit, load_fitting
from d2_regnet.engine import ProgressLine, check_config, load_config, train
from d2_regnet.engine.checks import Checked
from d2_regnet.inference import find_model
from d2_regnet.inference.outputs import write_image
from d2_regnet.report import Report
from d2_regnet.utils.drawing import draw_instances, truth_and_found
from d2_regnet.utils.files import check_folder, write_file

from . import adapt
from .anchors import suit_anchors
from .datasets import DataSet, boxes_only, in_order, read_datasets
from .schedule import GIB, batch_size, picture_bytes, plan

__all__ = ["Job", "prepare", "resumed", "run"]

_DRAWN = 12


@dataclass(frozen=True)
class Job:
    """A planned fine-tuning.

    Attributes:
        cfg: the complete config, as `config.yaml` will hold it.
        files: what is written before the training: path -> COCO dict.
        lines: the plan, for the user.
        resume: continue the run in the output folder.
        allow_missing: see `Fit.check`.
    """

    cfg: DictConfig
    files: dict[str, dict]
    lines: tuple[str, ...]
    resume: bool = False
    allow_missing: bool = False

    @property
    def output(self) -> Path:
        return Path(self.cfg.train.output_dir)

    def check(self) -> Checked:
        """Writes the files, and makes sure that the training can begin; an error removes them.

        Returns:
            The model and its weights, for `run`.

        Raises:
            ValueError, FileNotFoundError: from `engine.check_config`.
        """
        made = [folder for folder in (self.output / "data", self.output) if not folder.exists()]
        try:
            for path, coco in self.files.items():
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                write_file(path, json.dumps(coco))
            return check_config(self.cfg, resume=self.resume, allow_missing=self.allow_missing)
        except BaseException:
            for path in self.files:
                Path(path).unlink(missing_ok=True)
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise


def prepare(
    *,
    train: tuple[str, str],
    val: tuple[str, str] | None,
    model: str,
    output: str | os.PathLike,
    weights: str | None = None,
    format: str | None = None,
    unlabelled: str | None = None,
    crowds: bool = False,
    val_share: float = 0.2,
    short_edge: int | None = None,
    fit_anchors: bool = False,
    seed: int = 0,
    overrides: Sequence[str] = (),
    fetch: bool = True,
    allow_missing: bool = False,
) -> Job:
    """Reads the data, compares the weights, plans; writes nothing.

    Args:
        train: folder of images, and annotations; see `read_datasets`.
        val: the same, to evaluate on; None takes a share of `train`.
        model: see `inference.find_model`; LazyConfigs only.
        output: the run's folder, which must not hold another run.
        weights: a checkpoint, or "none"; by default the model's own.
        format: of the annotations; recognised by default.
        unlabelled: what to do with images without a label file; see `read_datasets`.
        crowds: train on crowd regions too.
        val_share: the share of `train` to evaluate on, in (0, 1), if `val` is None.
        seed: of everything random.
        short_edge: see `adapt.set_data`.
        fit_anchors: see `anchors.suit_anchors`.
        overrides: `key=value` of the planned config; rate and steps follow an overridden batch
            size.
        fetch: download remote weights, to say what of them fits.
        allow_missing: the weights may leave parts of the backbone at random.

    Raises:
        ValueError, OSError: naming what is wrong with the input.
    """
    output = Path(output)
    check_folder(output)
    if (output / "config.yaml").exists():
        raise FileExistsError(
            f"--output: {output} holds a run: continue it (--resume), or choose another folder"
        )
    if short_edge is not None and short_edge < 32:
        raise ValueError(f"--short-edge must be at least 32 pixels, not {short_edge}")
    cfg, weights = _model(model, weights)
    learnt, tested, notes = read_datasets(
        train,
        val,
        format=format,
        unlabelled=unlabelled,
        crowds=crowds,
        share=val_share,
        seed=seed,
    )
    masks = adapt.has_masks(cfg)
    if masks and not any(learnt.masks):
        notes.append("the data have no masks: the model is trained without its mask head")
        masks = False
    elif masks and not any(tested.masks):
        raise ValueError("--val has no masks, and --train has: give --val with masks")
    elif masks and not all(learnt.masks):
        missing = learnt.masks.count(None)
        notes.append(f"{missing} of {learnt.objects} objects have no mask: their boxes are trained")
        adapt.allow_objects_without_masks(cfg)
    if not masks:
        learnt, tested = boxes_only(learnt), boxes_only(tested)
    adapt.set_model(cfg, len(learnt.classes), masks)
    if not fetch and "://" in weights:
        known = _known_fit(weights)
    else:
        known = load_fitting(instantiate(cfg.model), weights)
    if sorted(known.classes) == sorted(learnt.classes):  # then their layers are kept, too
        order = [{"id": i, "name": each} for i, each in enumerate(known.classes, 1)]
        if learnt.classes != [*known.classes]:
            learnt, tested = in_order(learnt, order), in_order(tested, order)
            notes.append(
                "the classes are put into the order of the weights', whose layers are kept"
            )
    notes += known.check(weights, whole=False, allow_missing=allow_missing, classes=learnt.classes)
    name = re.sub(r"\W+", "_", output.absolute().name) or "mine"
    short = adapt.set_data(cfg, name, learnt, tested, folder=output / "data", short_edge=short_edge)
    notes += suit_anchors(cfg, learnt, fit=fit_anchors)
    limit = adapt.set_detections(cfg, max((learnt.by_image | tested.by_image).values()))
    if limit:
        notes.append(f"images have more than 100 objects: up to {limit} are found and evaluated")
    for part, data in (("train", learnt), ("val", tested)):
        if data.crowds:
            notes.append(f"--{part}: {data.crowds} crowd regions (iscrowd 1) are not trained on")
    if known.start == SCRATCH and adapt.from_scratch(cfg):
        notes.append("random values: the whole backbone is trained, with batch norm (norm=BN)")
    activations = adapt.body_activations(cfg, learnt, short)
    one = picture_bytes(activations, "box_heads" in cfg.model.get("roi_heads", {}))
    on_gpu = torch.cuda.is_available()
    memory = _memory(on_gpu)
    pictures = _shown(cfg, learnt)
    batch = batch_size(one, memory, pictures, on_gpu)
    base = cfg.train.get("base_batch_size") or cfg.dataloader.train.total_batch_size
    planned = plan(pictures, batch, known.start, cfg.optimizer.lr, base)
    adapt.set_schedule(cfg, planned, weights=weights, output=output, seed=seed)
    cfg = _reloaded(cfg, overrides)
    files = {
        cfg.datasets[f"{name}_{part}"].json_file: data.coco
        for part, data in (("train", learnt), ("val", tested))
        if data.file is None
    }
    lines = _describe(cfg, model, weights, known, learnt, tested, short, one, memory, on_gpu)
    lines += [f"note      {note}" for note in notes]
    return Job(cfg, files, tuple(lines), allow_missing=allow_missing)


def resumed(output: str | os.PathLike, overrides: Sequence[str] = ()) -> Job:
    """The job whose run is in the output folder, to be resumed with `overrides` of its config.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: an override that means nothing.
    """
    file = Path(output, "config.yaml")
    if not file.is_file():
        raise FileNotFoundError(f"--resume: {output} has no config.yaml, so no run to resume")
    cfg = load_config(str(file), overrides)
    cfg.train.output_dir = str(output)
    return Job(
        cfg, {}, (f"resume    the run in {output}, {cfg.train.max_iter} steps in all",), True
    )


def run(job: Job, checked: Checked | None = None, hooks: Iterable[HookBase] = ()) -> dict:
    """Trains, evaluates, draws and reports, in the job's output folder.

    Args:
        job: of `prepare` or `resumed`.
        checked: of `job.check()`, which is called here by default.
        hooks: as of `engine.train`.

    Returns:
        The last evaluation: task -> metric -> value.

    Raises:
        ValueError, FileNotFoundError: from `Job.check`, before anything else is written.
        Interrupted: a signal ended the training; `resumed` goes on.
    """
    checked = job.check() if checked is None else checked
    hooks = [*hooks, ProgressLine(job.cfg.train.log_period, sys.stdout)]
    with redirect_stdout(io.StringIO()):  # evaluators print a lot
        results = train(job.cfg, checked=checked, resume=job.resume, hooks=hooks, console=False)
    print("Drawing ...", flush=True)
    draw_images(job.cfg, job.output)
    Report([job.output]).write(job.output / "report")
    return results


def draw_images(cfg: DictConfig, output: Path) -> None:
    """The first test images with ground truth, and beside it what was found: `images/`."""
    name = cfg.dataloader.test.dataset.names
    records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    found = json.loads((output / "inference" / "coco_instances_results.json").read_text())
    shown = truth_and_found(records[:_DRAWN], found, metadata)
    for number, (record, (image, *both)) in enumerate(zip(records, shown), 1):
        truth, prediction = (draw_instances(image, each, metadata) for each in both)
        gap = np.full((truth.shape[0], 8, 3), 255, np.uint8)
        target = output / "images" / f"{number:02d}_{Path(record['file_name']).stem}.jpg"
        write_image(np.hstack([truth, gap, prediction]), target)


def _model(model: str, weights: str | None) -> tuple[DictConfig, str]:
    if weights == "none":
        path = os.path.join(model, "config.yaml") if os.path.isdir(model) else model
        return load_config(path), ""
    cfg, weights = find_model(model, weights, backbone=True)
    if isinstance(cfg, CfgNode):
        raise ValueError(
            f"--model: {model} is a yacs config; give the model's name, or a LazyConfig"
        )
    return cfg, weights if "://" in weights else os.path.abspath(weights)


def _known_fit(weights: str) -> Fit:
    """What can be said of remote weights without them."""
    detector = weights.removeprefix("regnet://").split("/")[-1] in model_zoo.rows()
    return Fit(DETECTOR if detector else BACKBONE)


def _shown(cfg: DictConfig, learnt: DataSet) -> int:
    """The images to learn from: most configs leave out those without an object."""
    filtered = cfg.dataloader.train.dataset.get("filter_empty", True)
    return len(learnt.by_image) if filtered else learnt.pictures


def _memory(on_gpu: bool) -> int:
    """Bytes that a training may have: of the GPU nearly all, of the machine half."""
    if on_gpu:
        return int(0.95 * torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _reloaded(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config as the training tool will read it, with the overrides."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "config.yaml")
        LazyConfig.save(cfg, file)
        cfg = load_config(file, overrides)
    if not cfg.train.eval_period:  # nothing to be patient in
        cfg.train.early_stopping.patience = 0
    return cfg


def _describe(
    cfg: DictConfig,
    model: str,
    weights: str,
    known: Fit,
    learnt: DataSet,
    tested: DataSet,
    short: int | None,
    one: int,
    memory: int,
    on_gpu: bool,
) -> list[str]:
    """The plan, a line each."""
    steps, batch = cfg.train.max_iter, cfg.dataloader.train.total_batch_size
    period, shown = cfg.train.eval_period, _shown(cfg, learnt)
    patience = cfg.train.early_stopping.patience
    empty = f" ({learnt.pictures - shown} without any)" if shown < learnt.pictures else ""
    warmup = round(cfg.lr_multiplier.get("warmup_length", 0) * steps)
    where = "the GPU" if on_gpu else "the machine"
    size = f"short edge {short}" if short else "as the config resizes them"
    if not (short or cfg.dataloader.test.mapper.augmentations):
        size = "not resized (--short-edge does)"
    classes = ", ".join(learnt.classes[:10]) + (", ..." if len(learnt.classes) > 10 else "")
    return [
        f"classes   {len(learnt.classes)}: {classes}",
        f"train     {learnt.pictures} images, {learnt.objects} objects{empty}: {learnt.origin}",
        f"val       {tested.pictures} images, {tested.objects} objects: {tested.origin}",
        f"model     {model}" + ("" if adapt.has_masks(cfg) else ", boxes only"),
        f"weights   {weights or 'none'} ({known})",
        f"images    {size}; {batch} a step (about {one / GIB:.1f} GiB each; {where}'s share is "
        f"{memory / GIB:.0f} GiB)",
        f"schedule  {steps} steps, {steps * batch / shown:.1f} passes; learning rate "
        f"{cfg.optimizer.lr:.2g} after {warmup} steps of warm-up, then a cosine to a hundredth; "
        + (f"evaluated every {period} steps" if 0 < period < steps else "evaluated at the end")
        + (f", until {patience} evaluations gain nothing" if patience else ""),
        f"output    {cfg.train.output_dir}, on {cfg.train.device}",
    ]
