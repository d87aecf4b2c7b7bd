"""The demo's numbers: what summary.json holds, and how it is printed."""

import json
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig

from d2_regnet.utils.files import whole_file

METRICS = ("AP", "AP50", "AP75", "APs", "APm")
TASKS = {"box": "bbox", "mask": "segm"}
SUMMARY = "summary.json"


def summarize(results: dict, seconds: float, cfg: DictConfig) -> dict:
    """What summary.json holds: AP from 0 to 100, and how it came about.

    Args:
        results: of the last evaluation: task -> metric -> value.
        seconds: spent in training steps.
        cfg: the demo's.
    """

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


def write_summary(summary: dict, folder: Path) -> None:
    with whole_file(folder / SUMMARY) as out:
        out.write(json.dumps(summary, indent=2).encode() + b"\n")


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


def is_complete(folder: Path) -> bool:
    """Whether a run in the folder has come to its end."""
    return (folder / SUMMARY).exists()


def report(folder: Path) -> str:
    """What the demo prints of a complete run."""
    summary = json.loads((folder / SUMMARY).read_text())
    return f"""
COCO AP (0 to 100) on {summary["images"]} held-out images, seed {summary["seed"]}:

{table(summary)}

{summary["steps"]} steps of training took {summary["train_seconds"]:.0f} s.
  {folder}/predictions.png  predictions beside ground truth; more of them in {folder}/pictures
  {folder}/curves.png       losses and AP over the steps
  {folder}/{SUMMARY}     the numbers; the full log is {folder}/log.txt"""
