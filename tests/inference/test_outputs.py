"""Files of predictions, read back by others."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO

from d2_regnet.inference import Prediction
from d2_regnet.inference.inputs import File, Frame, Video
from d2_regnet.inference.outputs import Results, VideoWriter, check_targets, write_image

METADATA = Metadata(thing_classes=["cat", "a,b"], thing_dataset_id_to_contiguous_id={7: 0, 3: 1})


@pytest.fixture
def prediction():
    mask = torch.zeros(2, 8, 10, dtype=torch.bool)
    mask[0, 1:4, 2:6] = True
    return Prediction(
        Instances(
            (8, 10),
            pred_boxes=Boxes(torch.tensor([[2.0, 1, 6, 4], [0, 0, 10, 8]])),
            scores=torch.tensor([0.9, 0.25]),
            pred_classes=torch.tensor([1, 0]),
            pred_masks=mask,
        ),
        METADATA,
    )


def frame(name, tmp_path, index=None):
    kind = File if index is None else Video
    return Frame(kind(name, tmp_path / name), np.zeros((8, 10, 3), np.uint8), index)


def test_coco_and_csv(prediction, tmp_path, capsys):
    results = Results(METADATA)
    results.add(frame("a.jpg", tmp_path), prediction)
    results.add(frame("b.mp4", tmp_path, 3), prediction)
    assert results.counts == (2, 4)
    coco_file, csv_file = results.write(tmp_path)

    coco = COCO(str(coco_file))  # as annotations ...
    assert {c["id"]: c["name"] for c in coco.loadCats([7, 3])} == {7: "cat", 3: "a,b"}
    assert coco.imgs[1] == {"id": 1, "file_name": "a.jpg", "width": 10, "height": 8}
    assert coco.imgs[2]["frame"] == 3
    first = coco.anns[1]
    assert (first["bbox"], first["area"], first["category_id"]) == ([2, 1, 4, 3], 12, 3)
    assert first["score"] == pytest.approx(0.9)
    assert coco.annToMask(first).sum() == 12
    found = coco.loadRes(json.loads(coco_file.read_text())["annotations"])  # ... and as results
    assert len(found.getAnnIds()) == 4

    rows = list(csv.DictReader(csv_file.open(newline="")))
    assert rows[0] == {
        **{"file": "a.jpg", "frame": "", "class": "a,b", "score": "0.9000"},
        **{"x0": "2.00", "y0": "1.00", "x1": "6.00", "y1": "4.00", "mask_area": "12"},
    }
    assert (rows[3]["file"], rows[3]["frame"], rows[3]["class"]) == ("b.mp4", "3", "cat")


def test_boxes_alone(prediction, tmp_path):
    prediction.instances.remove("pred_masks")
    results = Results(METADATA)
    results.add(frame("a.jpg", tmp_path), prediction)
    coco_file, csv_file = results.write(tmp_path)
    assert json.loads(coco_file.read_text())["annotations"][1]["area"] == 80
    assert csv_file.read_text().splitlines()[1].endswith(",4.00,")


def test_images_in_their_format(tmp_path):
    image = np.full((30, 40, 3), (250, 10, 10), np.uint8)
    for name, kind in (("x.JPG", "JPEG"), ("deep/x.png", "PNG")):
        write_image(image, tmp_path / name)
        read = Image.open(tmp_path / name)
        assert read.format == kind
        assert np.abs(np.asarray(read).astype(int) - image).max() < 12


def test_a_video_keeps_its_speed_and_size(tmp_path, monkeypatch):
    source = Video("clip.avi", tmp_path / "out" / "clip.mp4")
    monkeypatch.setattr(Video, "fps", 12.5)
    with VideoWriter(source) as writer:
        for _ in range(4):
            writer.add(np.full((48, 64, 3), (200, 30, 30), np.uint8))
    read = cv2.VideoCapture(str(source.target))
    asked = [read.get(x) for x in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT)]
    assert asked == [12.5, 4]
    there, image = read.read()
    assert there and image.shape == (48, 64, 3)
    assert image[20, 20, 2] > 150 > 80 > image[20, 20, 0]
    assert [f.name for f in source.target.parent.iterdir()] == ["clip.mp4"]


def test_a_broken_off_video_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Video, "fps", 25)
    with pytest.raises(RuntimeError), VideoWriter(Video("x", tmp_path / "x.mp4")) as writer:
        writer.add(np.zeros((48, 64, 3), np.uint8))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over_what_is_there(tmp_path):
    image, out = tmp_path / "a.jpg", tmp_path / "out"
    image.touch()
    sources = [File(str(image), out / "a.jpg")]
    check_targets(sources, out, overwrite=False)
    out.mkdir()
    (out / "predictions.csv").touch()
    with pytest.raises(FileExistsError, match=r"predictions\.csv exists .*--overwrite"):
        check_targets(sources, out, overwrite=False)
    check_targets(sources, out, overwrite=True)
    with pytest.raises(ValueError, match="is an input"):
        check_targets([File(str(image), image)], tmp_path, overwrite=True)
    with pytest.raises(ValueError, match="not a folder"):
        check_targets(sources, image, overwrite=True)
