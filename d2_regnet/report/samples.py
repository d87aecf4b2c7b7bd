"""Sample predictions: those already drawn, drawn from an evaluation's, or made by the model."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from d2_regnet.data import read_image
from d2_regnet.data.shapes import register_named_shapes
from d2_regnet.inference import Predictor
from d2_regnet.model_zoo.loading import load_any, run_weights
from d2_regnet.model_zoo.settings import setting
from d2_regnet.utils import drawing

from .runs import Run

DEFAULT_COUNT = 6
_WIDTH = 960  # pixels of an image on the page, at most


@dataclass(frozen=True)
class Sample:
    """One image's drawings, by caption, as JPEG."""

    title: str
    images: dict[str, bytes]


class NewSamples:
    """A run's weights, see `run_weights`, to be tried on its first test images."""

    def __init__(self, run: Run, count: int):
        """
        Args:
            count: how many of the test images to take, from the first.

        Raises:
            ValueError: the run has no config that can be built, no checkpoint or no test images.
            FileNotFoundError: a file that the data set needs does not exist.
        """
        config = run.folder / "config.yaml"
        if not config.is_file():
            raise ValueError(f"--samples: {run.folder} has no config.yaml to build the model from")
        self._cfg = load_any(str(config))
        self._weights = run_weights(run.folder)
        if not self._weights:
            raise ValueError(f"--samples: {run.folder} has no checkpoint (last_checkpoint)")
        records, self._metadata = _dataset(setting(self._cfg, "test data") or "")
        self._records = records[:count]

    def draw(self) -> list[Sample]:
        """Predicts and draws."""
        predictor = Predictor(self._cfg, self._weights, threshold=drawing.SHOWN_SCORE)
        samples = []
        for record in self._records:
            size = record["height"], record["width"]
            image = read_image(record["file_name"], "RGB", size[::-1])
            truth = drawing.from_annotations(record.get("annotations", []), size)
            found = predictor(image, array_format="RGB").instances
            samples.append(_sample(record, image, truth, found, self._metadata))
        return samples


def collect(run: Run, count: int = DEFAULT_COUNT) -> tuple[list[Sample], str]:
    """What the run's folder has to show.

    Returns:
        At most `count` samples, and where they are from, or why there are none.
    """
    drawn = sorted((run.folder / "images").glob("*.[pj][np]g"))
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
        drawings = drawing.truth_and_found(records[:count], predictions, metadata)
        found = [_sample(each, *parts, metadata) for each, parts in zip(records, drawings)]
    except Exception as error:  # of files of any kind, which the page can do without
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return [], f"None: {results.name} cannot be drawn here ({reason})."
    return found, "From the last evaluation, the first images of the test set."


def _dataset(names: str | list[str]) -> tuple[list[dict], object]:
    """The records and the metadata of the first of the names."""
    name = names if isinstance(names, str) else names[0]
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


def _sample(
    record: dict, image: np.ndarray, truth: Instances, found: Instances, metadata
) -> Sample:
    """Ground truth and prediction, each on the image."""
    caption = (
        "prediction" if len(found) else f"prediction (none of {drawing.SHOWN_SCORE:.0%} or more)"
    )
    drawings = {
        name: drawing.draw_instances(image, each, metadata)
        for name, each in {"ground truth": truth, caption: found}.items()
    }
    images = {name: _jpeg(Image.fromarray(each), _WIDTH) for name, each in drawings.items()}
    return Sample(Path(record["file_name"]).name, images)


def _jpeg(image: Image.Image, width: int) -> bytes:
    image.thumbnail((width, 2 * width))
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=88)
        return file.getvalue()
