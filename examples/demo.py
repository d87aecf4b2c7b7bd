"""Trains Mask R-CNN RegNetX-200MF on the built-in shapes, evaluates it and draws what it finds.

From scratch, in minutes, on two CPU cores. After Ctrl-C the same command continues from there.
"""

import json
import logging
import math
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

if __name__ == "__main__":
    from d2_regnet.utils.threads import spin_briefly

    spin_briefly()
    warnings.simplefilter("ignore")  # torch's and Detectron2's deprecations would hide the progress

import numpy as np
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from tabulate import tabulate

from d2_regnet.data import register_shapes
from d2_regnet.data.shapes import SPLITS
from d2_regnet.engine import load_config
from d2_regnet.finetune import Job
from d2_regnet.finetune import run as finetune
from d2_regnet.inference.outputs import write_image
from d2_regnet.utils import drawing
from d2_regnet.utils.cli import ToolParser, bad_input, failure
from d2_regnet.utils.files import check_folder, write_file

CONFIG = Path(__file__).parents[1] / "configs" / "mask_rcnn_regnetx_200mf_fpn_shapes.py"
METRICS = ("AP", "AP50", "AP75", "APs", "APm")
TASKS = {"box": "bbox", "mask": "segm"}
SUMMARY = "summary.json"
_EXAMPLES = """
About five minutes on two CPU cores:
    $ %(prog)s

Another seed, in another folder:
    $ %(prog)s --seed 1 --output output/other
"""
_EXIT_CODES = "Exit codes: 0, done; 1, failed; 2, bad input, nothing is written; 130, Ctrl-C."


def argument_parser() -> ToolParser:
    options = dict(prog="python -m examples.demo", dry_run="check, and say what would be trained")
    parser = ToolParser(__doc__, _EXAMPLES, exit_codes=_EXIT_CODES, **options)
    parser.add_argument("--seed", type=int, default=0, help="of the data, the weights, their order")
    parser.add_argument("--output", default="output/demo", type=Path, metavar="FOLDER")
    parser.add_argument("--steps", type=int, help="of training (default: the config's)")
    parser.add_argument("--train-images", type=int, default=SPLITS["train"], metavar="N")
    parser.add_argument("--val-images", type=int, default=SPLITS["val"], metavar="N")
    parser.add_argument("--restart", action="store_true", help="discard what the folder holds")
    return parser


def configure(args):
    """The config; makes no image yet.

    Raises:
        ValueError: for settings that cannot be, or that are not those of the run in the folder.
    """
    if args.steps is not None and args.steps < 1:
        raise ValueError(f"--steps must be at least 1, not {args.steps}")
    names = register_shapes(args.seed, {"train": args.train_images, "val": args.val_images})
    cfg = load_config(str(CONFIG))
    cfg.dataloader.train.dataset.names, cfg.dataloader.test.dataset.names = names
    cfg.train.update(seed=args.seed, output_dir=str(args.output))
    if args.steps is not None:
        cfg.train.update(max_iter=args.steps, eval_period=max(1, args.steps // 4))
    file = args.output / "config.yaml"
    there = identity(LazyConfig.load(str(file)) if file.exists() and not args.restart else cfg)
    for key, asked in identity(cfg).items():
        if there[key] != asked:
            raise ValueError(
                f"{args.output} holds a run with {key} {there[key]}, not {asked}: choose another "
                "folder with --output (make demo OUTPUT=...), or discard that run with --restart"
            )
    return cfg


def identity(cfg) -> dict:
    """What makes two runs one and the same."""
    names = cfg.dataloader.train.dataset.names, cfg.dataloader.test.dataset.names
    return {"seed": cfg.train.seed, "steps": cfg.train.max_iter, "data": names}


class Watch(HookBase):
    """Seconds of training, over all the parts of an interrupted run; a line after evaluations."""

    def __init__(self):
        self.seconds, self._screen = 0.0, sys.stdout

    def before_step(self):
        self._start = time.perf_counter()

    def after_step(self):
        self.seconds += time.perf_counter() - self._start
        done, latest = self.trainer.iter + 1, self.trainer.storage.latest()
        found = {name: latest.get(f"{task}/AP", (0, -1)) for name, task in TASKS.items()}
        if done == self.trainer.max_iter:
            print("Evaluating ...", file=self._screen, flush=True)
        elif all(step == self.trainer.iter for _, step in found.values()):
            text = ", ".join(f"{name} AP {value:.1f}" for name, (value, _) in found.items())
            print(f"evaluated after {done} steps: {text}", file=self._screen, flush=True)

    def state_dict(self):
        return {"seconds": self.seconds}

    def load_state_dict(self, state):
        self.seconds = state["seconds"]


def run(cfg) -> None:
    """Trains, or continues, evaluates and draws, in the config's folder."""
    folder, watch = Path(cfg.train.output_dir), Watch()
    if (folder / "last_checkpoint").exists():
        print(f"Continuing the run in {folder}.")
    results = finetune(Job(cfg, files={}, lines=(), resume=True), hooks=[watch])
    found = json.loads((folder / "inference" / "coco_instances_results.json").read_text())
    write_image(draw(cfg.dataloader.test.dataset.names, found), folder / "demo.png")
    summary = json.dumps(summarize(results, watch.seconds, cfg), indent=2)
    write_file(folder / SUMMARY, f"{summary}\n")  # last: with it the run is complete


def draw(names: str, found: list[dict], count: int = 4) -> np.ndarray:
    """The first images of a data set: as they are, with the truth, and with what was found."""
    records, metadata = DatasetCatalog.get(names)[:count], MetadataCatalog.get(names)
    lines = []
    for image, *both in drawing.truth_and_found(records, found, metadata):
        drawn = [drawing.draw_instances(grey(image), each, metadata) for each in both]
        panels = [drawing.enlarged(image), *drawn]
        lines.append(np.hstack([np.pad(each, ((8, 0), (8, 0), (0, 0))) for each in panels]))
    width = max(line.shape[1] for line in lines)
    return np.vstack([np.pad(each, ((0, 0), (0, width - each.shape[1]), (0, 0))) for each in lines])


def grey(image: np.ndarray) -> np.ndarray:
    """An RGB image without its colours, so that those of the classes stand out."""
    return image.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)


def summarize(results: dict, seconds: float, cfg) -> dict:
    """What summary.json holds: AP from 0 to 100, null if it is undefined, and how it came."""

    def number(name, metric):
        value = float(results.get(TASKS[name], {}).get(metric, math.nan))
        return None if math.isnan(value) else round(value, 2)

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
    """COCO's metrics, and the AP of each class, of boxes and of masks."""
    kinds = summary["per_class"]
    found = [[name, *(summary[f"{name}_{m.lower()}"] for m in METRICS)] for name in TASKS]
    by_class = [[name, *(each[f"{name}_ap"] for each in kinds.values())] for name in TASKS]
    options = dict(tablefmt="plain", floatfmt=".1f", missingval="n/a")
    blocks = (found, ["", *METRICS]), (by_class, ["AP", *kinds])
    return "\n\n".join(tabulate(lines, heads, **options) for lines, heads in blocks)


def closing(folder: Path, test_images: str) -> str:
    """What is printed of a complete run, and what to do next."""
    summary = json.loads((folder / SUMMARY).read_text())
    command = shutil.which("d2-regnet") or Path(sys.executable).with_name("d2-regnet")
    return f"""
COCO AP (0 to 100) on {summary["images"]} held-out images, seed {summary["seed"]}:

{table(summary)}

{summary["steps"]} steps of training took {summary["train_seconds"]:.0f} s.
  {folder}/demo.png            images, ground truth, predictions
  {folder}/report/report.html  curves, AP by class, more predictions
  {folder}/{SUMMARY}        the numbers; the full log is {folder}/log.txt

Next, predict with this detector; then train it further on your own data set:
  {command} predict --model {folder} --output {folder}/predicted {test_images}
  {command} finetune --model {folder} --output output/mine --train IMAGES ANNOTATIONS"""


def main(argv: list[str] | None = None) -> None:
    logging.getLogger("torch").setLevel(logging.ERROR)
    args = argument_parser().parse_args(argv)
    folder = args.output
    about = (
        f"Mask R-CNN RegNetX-200MF-FPN from random weights, seed {args.seed}: "
        f"{args.train_images} images to learn from, {args.val_images} to be tested on."
    )
    try:
        with bad_input(args.verbose):
            check_folder(folder)
            cfg = configure(args)
            if args.dry_run:
                print(f"Would train in {folder}: {about}")
                print(f"{cfg.train.max_iter} steps of {cfg.dataloader.train.total_batch_size}")
                return
            folder.mkdir(parents=True, exist_ok=True)
            gone = (
                f"{SUMMARY} config.yaml last_checkpoint model_*.pth metrics.json images/*".split()
            )
            for file in [each for name in gone for each in folder.glob(name) if args.restart]:
                file.unlink()
        if (folder / SUMMARY).exists():
            print(f"The run in {folder} is complete; --restart does it again.")
        else:
            print(about, flush=True)
            with failure(args.verbose):
                run(cfg)
    except KeyboardInterrupt as stop:
        print(f"Stopped. The same command continues from here (folder {folder}).")
        sys.exit(128 + getattr(stop, "signum", signal.SIGINT))
    print(closing(folder, MetadataCatalog.get(cfg.dataloader.test.dataset.names).image_root))


if __name__ == "__main__":
    main()
