"""Sample predictions: those already drawn, drawn from an evaluation's, or made by the model."""

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from d2_regnet.data import read_image
from d2_regnet.data.shapes import register_named_shapes
from d2_regnet.inference import Predictor
from d2_regnet.model_zoo.loading import load_any
from d2_regnet.utils.drawing import draw_instances, from_annotations, from_results

from .runs import Run

SHOWN_SCORE = 0.5
DEFAULT_COUNT = 6
_WIDTH = 960  # pixels of an image on the page, at most


@dataclass(frozen=True)
class Sample:
    """One image's drawings, by caption, as JPEG."""

    title: str
    pictures: dict[str, bytes]


class NewSamples:
    """A run's newest weights, to be tried on its first test images."""

    def __init__(self, run: Run, count: int):
        """
        Args:
            count: how many of the test images to take, from the first.

        Raises:
            ValueError: the run has no config that can be built, no checkpoint or no test images.
            FileNotFoundError: a file that the data set needs does not exist.
        """
        config, last = run.folder / "config.yaml", run.folder / "last_checkpoint"
        if not config.is_file():
            raise ValueError(f"--samples: {run.folder} has no config.yaml to build the model from")
        self._cfg = load_any(str(config))
        if not last.is_file():
            raise ValueError(f"--samples: {run.folder} has no checkpoint (last_checkpoint)")
        self._weights = str(run.folder / last.read_text().strip())
        yacs = isinstance(self._cfg, CfgNode)
        data = self._cfg.DATASETS.TEST if yacs else self._cfg.dataloader.test.dataset.names
        self._records, self._metadata = _dataset(data)
        self._records = self._records[:count]

    def draw(self) -> list[Sample]:
        """Predicts and draws."""
        predictor = Predictor(self._cfg, self._weights, threshold=SHOWN_SCORE)
        return [
            _draw(each, predictor(_image(each), array_format="RGB").instances, self._metadata)
            for each in self._records
        ]


def collect(run: Run, count: int = DEFAULT_COUNT) -> tuple[list[Sample], str]:
    """What the run's folder has to show.

    Returns:
        At most `count` samples, and where they are from, or why there are none.
    """
    drawn = sorted((run.folder / "images").glob("*.[pj][np]g")) or [
        file for file in [run.folder / "predictions.png"] if file.is_file()
    ]
    found = [sample for sample in map(_read, drawn[:count]) if sample]
    if found:
        return found, f"The run drew these itself ({found[0].title} and on)."
    results = run.folder / "inference" / "coco_instances_results.json"
    if not results.is_file():
        return [], "None: the folder has neither drawn images nor an evaluation's predictions."
    try:
        predictions = json.loads(results.read_text())
        name = run.config.get("dataloader.test.dataset.names") or run.config["DATASETS.TEST"]
        records, metadata = _dataset(name)
        found = list(_draw_results(records[:count], predictions, metadata))
    except Exception as error:  # of files of any kind, which the page can do without
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return [], f"None: {results.name} cannot be drawn here ({reason})."
    return found, "From the last evaluation, the first images of the test set."


def _dataset(names) -> tuple[list[dict], object]:
    name = names if isinstance(names, str) else next(iter(names))
    register_named_shapes(name)
    if name not in DatasetCatalog:
        raise ValueError(f"the data set {name!r} is not registered here")
    return DatasetCatalog.get(name), MetadataCatalog.get(name)


def _read(file: Path) -> Sample | None:
    try:
        with Image.open(file) as image:
            return Sample(file.name, {"": _jpeg(image.convert("RGB"), 2 * _WIDTH)})
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _draw_results(records: Iterable[dict], predictions: list[dict], metadata) -> Iterable[Sample]:
    ids = metadata.thing_dataset_id_to_contiguous_id
    for record in records:
        mine = [each for each in predictions if each["image_id"] == record["image_id"]]
        yield _draw(record, from_results(mine, (record["height"], record["width"]), ids), metadata)


def _draw(record: dict, instances: Instances, metadata) -> Sample:
    """Ground truth and prediction, each on the image."""
    size, image = (record["height"], record["width"]), _image(record)
    shown = instances[instances.scores >= SHOWN_SCORE]
    drawings = {
        "ground truth": from_annotations(record.get("annotations", []), size),
        "prediction" if len(shown) else f"prediction (none of {SHOWN_SCORE:.0%} or more)": shown,
    }
    return Sample(
        Path(record["file_name"]).name,
        {
            caption: _jpeg(Image.fromarray(draw_instances(image, each, metadata)), _WIDTH)
            for caption, each in drawings.items()
        },
    )


def _image(record: dict) -> np.ndarray:
    """uint8 (H, W, 3), RGB, turned as its annotations are."""
    return read_image(record["file_name"], "RGB", (record["width"], record["height"]))


def _jpeg(image: Image.Image, width: int) -> bytes:
    image.thumbnail((width, 2 * width))
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=88)
        return file.getvalue()
