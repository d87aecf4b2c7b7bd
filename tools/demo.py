#!/usr/bin/env python
"""Trains Mask R-CNN RegNetX-200MF on the built-in shapes, evaluates it and draws what it finds.

From scratch, in minutes, on two CPU cores. After Ctrl-C the same command goes on from there.
"""

import io
import json
import logging
import signal
import sys
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # torch's and Detectron2's deprecations would hide the progress

import numpy as np
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine import HookBase
from detectron2.structures import Instances
from matplotlib.figure import Figure
from omegaconf import DictConfig

from d2_regnet import drawing
from d2_regnet.cli import ToolParser, bad_input, failure
from d2_regnet.data import register_shapes
from d2_regnet.data.shapes import SPLITS
from d2_regnet.drawing import enlarged, from_annotations, from_results
from d2_regnet.engine import ProgressLine, load_config, train
from d2_regnet.files import whole_file

_EXAMPLES = """
About five minutes on two CPU cores:
    $ %(prog)s

Another seed, in another folder:
    $ %(prog)s --seed 1 --output output/other
"""
_EXIT_CODES = (
    "Exit codes: 0, done; 1, failed; 2, bad input, before anything is written; 130, stopped by "
    "Ctrl-C."
)

CONFIG = Path(__file__).parents[1] / "configs" / "mask_rcnn_regnetx_200mf_fpn_shapes.py"
METRICS = ("AP", "AP50", "AP75", "APs", "APm")
TASKS = {"box": "bbox", "mask": "segm"}
PICTURES = 12  # drawn: the first ones, whatever they turn out like
PICTURES_TOGETHER = 4
SHOWN_SCORE = 0.5
DPI = 100
LOSSES = {
    "total_loss": dict(color="black", linewidth=2),
    "loss_cls": {},
    "loss_box_reg": {},
    "loss_mask": {},
    "loss_rpn_cls": dict(linestyle="--"),
    "loss_rpn_loc": dict(linestyle="--"),
}


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

    def __init__(self, stream):
        self._stream = stream

    def after_step(self):
        if self.trainer.iter + 1 == self.trainer.max_iter:
            print("Evaluating ...", file=self._stream, flush=True)
            return
        latest = self.trainer.storage.latest()
        found = {name: latest.get(f"{task}/AP", (0, -1)) for name, task in TASKS.items()}
        if all(step == self.trainer.iter for _, step in found.values()):
            text = ", ".join(f"{name} AP {value:.1f}" for name, (value, _) in found.items())
            print(
                f"evaluated after {self.trainer.iter + 1} steps: {text}",
                file=self._stream,
                flush=True,
            )


def argument_parser() -> ToolParser:
    parser = ToolParser(
        __doc__,
        _EXAMPLES,
        exit_codes=_EXIT_CODES,
        dry_run="check everything and say what would be trained",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the data, the weights, their order")
    parser.add_argument("--output", default="output/demo", metavar="FOLDER")
    parser.add_argument("--steps", type=int, help="of training (default: the config's)")
    parser.add_argument("--train-images", type=int, default=SPLITS["train"], metavar="N")
    parser.add_argument("--val-images", type=int, default=SPLITS["val"], metavar="N")
    parser.add_argument("--restart", action="store_true", help="discard what the folder holds")
    return parser


def configure(args) -> DictConfig:
    """The demo's config, for the seed, the folder and the sizes asked for."""
    names = register_shapes(args.seed, {"train": args.train_images, "val": args.val_images})
    cfg = load_config(str(CONFIG))
    cfg.dataloader.train.dataset.names, cfg.dataloader.test.dataset.names = names
    cfg.train.update(seed=args.seed, output_dir=args.output)
    if args.steps is not None:
        cfg.train.update(max_iter=args.steps, eval_period=max(1, args.steps // 4))
    return cfg


def identity(cfg: DictConfig) -> dict:
    """What makes two runs one and the same."""
    loader = cfg.dataloader
    return {
        "seed": cfg.train.seed,
        "steps": cfg.train.max_iter,
        "data": (loader.train.dataset.names, loader.test.dataset.names),
    }


def check_folder(cfg: DictConfig, folder: Path) -> None:
    """Refuses to go on with a run of other settings, which would be neither the one nor the other.

    Raises:
        ValueError: the folder holds such a run.
    """
    file = folder / "config.yaml"
    if not file.exists():
        return
    there, asked = identity(LazyConfig.load(str(file))), identity(cfg)
    for key in asked:
        if there[key] != asked[key]:
            raise ValueError(
                f"{folder} holds a run with {key} {there[key]}, not {asked[key]}: choose another "
                "folder with --output (make demo OUTPUT=...), or discard that run with --restart"
            )


def discard(folder: Path) -> None:
    """Removes what a run would go on from; the rest of its files the next one overwrites."""
    for pattern in (
        "summary.json",
        "config.yaml",
        "last_checkpoint",
        "model_*.pth",
        "metrics.json",
    ):
        for file in folder.glob(pattern):
            file.unlink()


def summarize(results: dict, seconds: float, cfg: DictConfig) -> dict:
    """What summary.json holds: AP from 0 to 100, and how it came about."""

    def number(name, metric):
        value = results.get(TASKS[name], {}).get(metric, float("nan"))
        return None if np.isnan(value) else round(value, 2)

    names = cfg.dataloader.test.dataset.names
    return {
        # COCOEvaluator calls the AP undefined where nothing at all was found.
        **{f"{name}_ap": number(name, "AP") or 0.0 for name in TASKS},
        **{f"{name}_{m.lower()}": number(name, m) for name in TASKS for m in METRICS[1:]},
        "per_class": {
            kind: {f"{name}_ap": number(name, f"AP-{kind}") for name in TASKS}
            for kind in MetadataCatalog.get(names).thing_classes
        },
        "train_seconds": round(seconds, 1),
        "steps": cfg.train.max_iter,
        "images": len(DatasetCatalog.get(names)),
        "seed": cfg.train.seed,
    }


def table(summary: dict) -> str:
    """The final table: COCO's metrics, and the AP of each class, of boxes and of masks."""

    def row(title, cells):
        return f"  {title:<6}" + "".join(f"{cell:>10}" for cell in cells)

    def shown(value):
        return "n/a" if value is None else f"{value:.1f}"

    kinds = summary["per_class"]
    return "\n".join(
        [
            row("", METRICS),
            *[row(n, [shown(summary[f"{n}_{m.lower()}"]) for m in METRICS]) for n in TASKS],
            "",
            row("AP", kinds),
            *[row(n, [shown(kinds[kind][f"{n}_ap"]) for kind in kinds]) for n in TASKS],
        ]
    )


def draw_instances(image: np.ndarray, instances: Instances, metadata) -> np.ndarray:
    """Instances in the colours of their classes on their picture in grey, enlarged."""
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
    return drawing.draw_instances(grey, instances, metadata)


def draw_pictures(cfg: DictConfig, folder: Path) -> None:
    """Pictures with ground truth and predictions beside them: in pictures/, and predictions.png."""
    name = cfg.dataloader.test.dataset.names
    metadata = MetadataCatalog.get(name)
    found = json.loads((folder / "inference" / "coco_instances_results.json").read_text())
    (folder / "pictures").mkdir(exist_ok=True)
    ids = metadata.thing_dataset_id_to_contiguous_id
    rows = []
    for record in DatasetCatalog.get(name)[:PICTURES]:
        image = read_image(record["file_name"], format="RGB")
        size = image.shape[:2]
        predictions = [
            each
            for each in found
            if each["image_id"] == record["image_id"] and each["score"] >= SHOWN_SCORE
        ]
        both = from_annotations(record["annotations"], size), from_results(predictions, size, ids)
        drawn = [draw_instances(image, each, metadata) for each in both]
        rows.append([enlarged(image), *drawn])
        draw_grid(rows[-1:], folder / "pictures" / Path(record["file_name"]).name)
    draw_grid(rows[:PICTURES_TOGETHER], folder / "predictions.png")


def draw_grid(rows: list[list[np.ndarray]], file: Path) -> None:
    """Rows of a picture, its ground truth and its prediction, under their titles."""
    width = max(row[0].shape[1] for row in rows)
    heights = [row[0].shape[0] for row in rows]
    gap, title = 8, 28
    size = (3 * (width + gap) + gap, sum(heights) + (len(rows) + 1) * gap + title)
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
    top = size[1] - title
    for row, height in zip(rows, heights):
        for column, image in enumerate(row):
            left = gap + column * (width + gap) + (width - image.shape[1]) // 2
            figure.figimage(image, left, top - height, origin="upper")
        top -= height + gap
    for column, text in enumerate(("picture", "ground truth", "prediction")):
        centre = gap + column * (width + gap) + width / 2
        figure.text(centre / size[0], 1 - 7 / size[1], text, ha="center", va="top", fontsize=12)
    save_figure(figure, file)


def draw_curves(folder: Path) -> None:
    """curves.png: the losses and the AP over the steps, from metrics.json."""
    lines = (json.loads(line) for line in (folder / "metrics.json").read_text().splitlines())
    # A run that was killed repeats steps when it goes on; the later line counts.
    records = {line["iteration"]: line for line in lines}

    def points(key):
        """Steps done, and the values of a metric that is not written at every step."""
        return zip(*[(i + 1, line[key]) for i, line in sorted(records.items()) if key in line])

    figure = Figure(figsize=(11, 4), dpi=DPI, layout="constrained")
    losses, ap = figure.subplots(1, 2)
    for key, style in LOSSES.items():
        losses.plot(*points(key), label=key.removeprefix("loss_").replace("_", " "), **style)
    losses.set(xlabel="step", title="Loss", ylim=(0, None))
    for name, task in TASKS.items():
        steps, values = points(f"{task}/AP")
        ap.plot(steps, values, marker="o", label=f"{name} AP {values[-1]:.1f}")
    ap.set(xlabel="step", title="COCO AP on held-out pictures", xlim=(0, None), ylim=(0, None))
    for panel in (losses, ap):
        panel.grid(alpha=0.3)
        panel.legend()
    save_figure(figure, folder / "curves.png")


def save_figure(figure: Figure, file: Path) -> None:
    with whole_file(file) as out:
        figure.savefig(out, format="png")


def write_summary(summary: dict, file: Path) -> None:
    with whole_file(file) as out:
        out.write(json.dumps(summary, indent=2).encode() + b"\n")


def report(summary: dict, folder: Path) -> str:
    return f"""
COCO AP (0 to 100) on {summary["images"]} held-out pictures, seed {summary["seed"]}:

{table(summary)}

{summary["steps"]} steps of training took {summary["train_seconds"]:.0f} s.
  {folder}/predictions.png  predictions beside ground truth; more of them in {folder}/pictures
  {folder}/curves.png       losses and AP over the steps
  {folder}/summary.json     the numbers; the full log is {folder}/log.txt"""


def run(cfg: DictConfig, folder: Path) -> dict:
    """Trains, or goes on training, evaluates and draws; returns the summary."""
    stopwatch = Stopwatch()
    if (folder / "last_checkpoint").exists():
        print(f"Going on with the run in {folder}.")
    screen = sys.stdout
    hooks = [stopwatch, ProgressLine(cfg.train.log_period, screen), ReportAP(screen)]
    with redirect_stdout(io.StringIO()):  # pycocotools prints a lot
        results = train(cfg, resume=True, hooks=hooks, console=False)
    print("Drawing ...", flush=True)
    draw_pictures(cfg, folder)
    draw_curves(folder)
    summary = summarize(results, stopwatch.seconds, cfg)
    write_summary(summary, folder / "summary.json")  # last: with it the run is complete
    return summary


def make_data(cfg: DictConfig) -> None:
    """Makes what is not yet in the cache; loading it costs next to nothing."""
    for name in (cfg.dataloader.train.dataset.names, cfg.dataloader.test.dataset.names):
        file = Path(MetadataCatalog.get(name).json_file)
        if not file.exists():
            print(f"Making the pictures in {file.parent} ...", flush=True)
            DatasetCatalog.get(name)


def intention(args) -> str:
    return (
        f"Mask R-CNN RegNetX-200MF-FPN from random weights, seed {args.seed}: "
        f"{args.train_images} pictures to learn from, {args.val_images} to be tested on."
    )


def main(argv: list[str] | None = None) -> None:
    logging.getLogger("torch").setLevel(logging.ERROR)
    args = argument_parser().parse_args(argv)
    folder = Path(args.output)
    try:
        with bad_input(args.verbose):
            cfg = configure(args)
            if args.dry_run:
                if not args.restart:
                    check_folder(cfg, folder)
                print(f"Would train in {folder}: {intention(args)}")
                print(f"{cfg.train.max_iter} steps of {cfg.dataloader.train.total_batch_size}")
                return
            folder.mkdir(parents=True, exist_ok=True)
            if args.restart:
                discard(folder)
            check_folder(cfg, folder)
            if (folder / "summary.json").exists():
                print(f"The run in {folder} is complete; --restart does it again.")
                print(report(json.loads((folder / "summary.json").read_text()), folder))
                return
            make_data(cfg)
        print(intention(args), flush=True)
        with failure(args.verbose):
            summary = run(cfg, folder)
    except KeyboardInterrupt as stop:
        print(f"Stopped. The same command goes on from here (folder {folder}).")
        sys.exit(128 + getattr(stop, "signum", signal.SIGINT))
    print(report(summary, folder))


if __name__ == "__main__":
    main()
