"""Predictions on disk: drawn images and videos, one COCO JSON, one CSV."""

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.catalog import Metadata
from PIL import Image

from d2_regnet.utils.files import check_folder, whole_file, write_file

from .inputs import Film, Frame, Source
from .prediction import Prediction

JSON, CSV = "predictions.json", "predictions.csv"
_COLUMNS = ("file", "frame", "class", "score", "x0", "y0", "x1", "y1", "mask_area")


def check_targets(sources: Sequence[Source], output: Path, overwrite: bool) -> None:
    """That nothing is written over what is there.

    Raises:
        FileExistsError: one of the files exists, and `overwrite` is not set.
        ValueError: the output folder is a file, or a drawn image would replace an input.
        PermissionError: nothing may be written there.
    """
    check_folder(output)
    targets = [*(source.target for source in sources), output / JSON, output / CSV]
    there = [target for target in targets if target.exists()]
    inputs = {os.path.realpath(s.name) for s in sources if s.local}
    for target in there:
        if os.path.realpath(target) in inputs:
            raise ValueError(f"{target} is an input: choose another folder with --output")
    if there and not overwrite:
        raise FileExistsError(
            f"{there[0]} exists ({len(there)} of {len(targets)} files that would be written do): "
            "choose another folder with --output, or replace them with --overwrite"
        )


class Results:
    """Collects predictions, and writes them as one COCO file and one table."""

    def __init__(self, metadata: Metadata):
        ids = metadata.thing_dataset_id_to_contiguous_id
        names = metadata.thing_classes
        self._coco = {
            "info": {"description": "predictions of d2_regnet"},
            "categories": [{"id": number, "name": names[i]} for number, i in ids.items()],
            "images": [],
            "annotations": [],
        }
        self._rows = []

    def add(self, frame: Frame, prediction: Prediction) -> None:
        height, width = frame.image.shape[:2]
        image = {"file_name": frame.source.name, "width": width, "height": height}
        image = {"id": len(self._coco["images"]) + 1} | image | (frame.source.entry or {})
        if frame.index is not None:
            image["frame"] = frame.index
        self._coco["images"].append(image)
        instances = prediction.instances
        areas = [None] * len(prediction)
        if instances.has("pred_masks"):
            areas = instances.pred_masks.flatten(1).sum(1).tolist()
        boxes, found = instances.pred_boxes.tensor.tolist(), prediction.to_coco(image["id"])
        for each, name, box, area in zip(found, prediction.names, boxes, areas):
            each["bbox"] = [round(value, 2) for value in each["bbox"]]
            each |= {
                "id": len(self._coco["annotations"]) + 1,
                "area": each["bbox"][2] * each["bbox"][3] if area is None else area,
                "iscrowd": 0,
            }
            self._coco["annotations"].append(each)
            self._rows.append(
                [
                    *(frame.source.name, "" if frame.index is None else frame.index, name),
                    *(f"{each['score']:.4f}", *(f"{value:.2f}" for value in box)),
                    "" if area is None else area,
                ]
            )

    @property
    def counts(self) -> tuple[int, int]:
        """Images and detections so far."""
        return len(self._coco["images"]), len(self._coco["annotations"])

    def write(self, folder: Path) -> list[Path]:
        """Writes predictions.json and predictions.csv, which it returns."""
        table = io.StringIO(newline="")
        csv.writer(table).writerows([_COLUMNS, *self._rows])
        texts = {JSON: json.dumps(self._coco), CSV: table.getvalue()}
        for name, text in texts.items():
            write_file(folder / name, text)
        return [folder / name for name in texts]


def write_image(image: np.ndarray, target: Path) -> None:
    """Writes an RGB array as JPEG or PNG, as the target's name says."""
    target.parent.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if target.suffix.lower() == ".png" else "JPEG"
    with whole_file(target) as file:
        Image.fromarray(image).save(file, kind, quality=92)


class VideoWriter:
    """An MP4 file that appears when the block ends without an error; MPEG-4 Part 2."""

    def __init__(self, source: Film):
        self._source = source
        self._writer = None

    def __enter__(self) -> "VideoWriter":
        target = self._source.target
        target.parent.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix=".video", dir=target.parent)
        self._file = os.path.join(self._folder.name, target.name)
        return self

    def add(self, image: np.ndarray) -> None:
        """A frame, RGB, of the size of the first; OSError if OpenCV cannot write such a video."""
        if self._writer is None:
            height, width = image.shape[:2]
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(self._file, code, self._source.fps, (width, height))
            if not self._writer.isOpened():
                raise OSError(f"OpenCV cannot write MP4 videos of {width} x {height} pixels here")
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def __exit__(self, kind, *_) -> None:
        if self._writer is not None:
            self._writer.release()
            if kind is None:
                with open(self._file, "rb") as video, whole_file(self._source.target) as file:
                    shutil.copyfileobj(video, file)
        self._folder.cleanup()
