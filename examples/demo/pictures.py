"""The demo's images: predictions beside ground truth, and curves."""

import json
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from matplotlib.figure import Figure

from d2_regnet.utils import drawing
from d2_regnet.utils.files import whole_file

from .summary import TASKS

_PICTURES = 12  # drawn: the first ones, whatever they turn out like
_TOGETHER = 4
_DPI = 100
_LOSSES = {
    "total_loss": dict(color="black", linewidth=2),
    "loss_cls": {},
    "loss_box_reg": {},
    "loss_mask": {},
    "loss_rpn_cls": dict(linestyle="--"),
    "loss_rpn_loc": dict(linestyle="--"),
}


def draw_pictures(dataset: str, folder: Path) -> None:
    """Images with ground truth and predictions beside them: in images/, and predictions.png.

    Args:
        dataset: the name of the test set.
        folder: the run's, with its last evaluation's predictions.
    """
    records, metadata = DatasetCatalog.get(dataset)[:_PICTURES], MetadataCatalog.get(dataset)
    found = json.loads((folder / "inference" / "coco_instances_results.json").read_text())
    (folder / "images").mkdir(exist_ok=True)
    rows = []
    for record, (image, *both) in zip(records, drawing.truth_and_found(records, found, metadata)):
        drawn = [draw_instances(image, each, metadata) for each in both]
        rows.append([drawing.enlarged(image), *drawn])
        _draw_grid(rows[-1:], folder / "images" / Path(record["file_name"]).name)
    _draw_grid(rows[:_TOGETHER], folder / "predictions.png")


def draw_instances(image: np.ndarray, instances: Instances, metadata) -> np.ndarray:
    """Instances in the colours of their classes on their image in grey, enlarged."""
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
    return drawing.draw_instances(grey, instances, metadata)


def _draw_grid(rows: list[list[np.ndarray]], file: Path) -> None:
    """Rows of an image, its ground truth and its prediction, under their titles."""
    width = max(row[0].shape[1] for row in rows)
    heights = [row[0].shape[0] for row in rows]
    gap, title = 8, 28
    size = (3 * (width + gap) + gap, sum(heights) + (len(rows) + 1) * gap + title)
    figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI)
    top = size[1] - title
    for row, height in zip(rows, heights):
        for column, image in enumerate(row):
            left = gap + column * (width + gap) + (width - image.shape[1]) // 2
            figure.figimage(image, left, top - height, origin="upper")
        top -= height + gap
    for column, text in enumerate(("image", "ground truth", "prediction")):
        centre = gap + column * (width + gap) + width / 2
        figure.text(centre / size[0], 1 - 7 / size[1], text, ha="center", va="top", fontsize=12)
    _save(figure, file)


def draw_curves(folder: Path) -> None:
    """curves.png: the losses and the AP over the steps, from metrics.json."""
    lines = (json.loads(line) for line in (folder / "metrics.json").read_text().splitlines())
    # A run that was killed repeats steps when it goes on; the later line counts.
    records = {line["iteration"]: line for line in lines}

    def points(key):
        """Steps done, and the values of a metric that is not written at every step."""
        return zip(*[(i + 1, line[key]) for i, line in sorted(records.items()) if key in line])

    figure = Figure(figsize=(11, 4), dpi=_DPI, layout="constrained")
    losses, ap = figure.subplots(1, 2)
    for key, style in _LOSSES.items():
        losses.plot(*points(key), label=key.removeprefix("loss_").replace("_", " "), **style)
    losses.set(xlabel="step", title="Loss", ylim=(0, None))
    for name, task in TASKS.items():
        steps, values = points(f"{task}/AP")
        ap.plot(steps, values, marker="o", label=f"{name} AP {values[-1]:.1f}")
    ap.set(xlabel="step", title="COCO AP on held-out images", xlim=(0, None), ylim=(0, None))
    for panel in (losses, ap):
        panel.grid(alpha=0.3)
        panel.legend()
    _save(figure, folder / "curves.png")


def _save(figure: Figure, file: Path) -> None:
    with whole_file(file) as out:
        figure.savefig(out, format="png")
