"""Predicting from the command line, as a newcomer with a folder of images would."""

import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2_regnet.data.shapes import CLASSES, render
from d2_regnet.inference import exported
from d2_regnet.inference.prediction import Prediction


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """photos/{a,b}/1.png, photos/broken.jpg, photos/clip.avi; in the folder above them."""
    for index, name in enumerate("ab"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        Image.fromarray(render(2, "val", index)[0]).save(folder / "1.png")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    clip = str(tmp_path / "photos" / "clip.avi")
    writer = cv2.VideoWriter(clip, cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 120))
    for _ in range(3):
        writer.write(cv2.resize(render(2, "val", 0)[0], (160, 120)))
    writer.release()
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "other.yaml").write_text("MODEL: {NOWHERE: 1}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder):
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


def test_a_folder_is_predicted_and_what_cannot_be_read_is_said(
    tool, photos, tiny_run, capsys, refused
):
    line = ["--model", str(tiny_run), "photos", "--output", "out", "--threshold", "0.1"]
    assert tool.main([*line, "--batch-size", "2", "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert "in 5 image(s): out" in out
    assert "1 input(s) could not be read:\n  photos/broken.jpg: cannot identify " in err
    names = ["a/1.png", "b/1.png", "clip.avi.mp4", "predictions.csv", "predictions.json"]
    assert files(photos / "out") == names
    drawn, plain = (cv2.imread(str(photos / x / "a/1.png")) for x in ("out", "photos"))
    assert drawn.shape[0] == 3 * plain.shape[0]
    video = cv2.VideoCapture("out/clip.avi.mp4")
    asked = (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_WIDTH)
    assert [video.get(each) for each in asked] == [10, 3, 160]

    coco = json.loads((photos / "out/predictions.json").read_text())
    assert [c["name"] for c in coco["categories"]] == list(CLASSES)
    assert [i["file_name"] for i in coco["images"]][:2] == ["photos/a/1.png", "photos/b/1.png"]
    assert [i.get("frame") for i in coco["images"]] == [None, None, 0, 1, 2]
    scores = [each["score"] for each in coco["annotations"]]
    assert len(scores) > 5 and min(scores) >= 0.1
    with open("out/predictions.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(scores)

    before = {f: (photos / "out" / f).stat().st_mtime_ns for f in names}
    assert "--overwrite" in refused(tool.main, *line)
    assert {f: (photos / "out" / f).stat().st_mtime_ns for f in names} == before
    again = [*line, "--overwrite", "--no-drawings", "--classes", "star", "--dtype", "float32"]
    assert tool.main(again) == 1
    coco = json.loads((photos / "out/predictions.json").read_text())
    assert {each["category_id"] for each in coco["annotations"]} <= {CLASSES.index("star") + 1}


def test_where_no_input_can_be_read_nothing_is_left_behind(tool, photos, tiny_run, capsys):
    line = ["--model", str(tiny_run), "--device", "cpu", "photos/broken.jpg", "--output", "out"]
    for _ in range(2):  # and the same line is not refused afterwards
        assert tool.main(line) == 1
        out, err = capsys.readouterr()
        assert "nothing was written" in out and "photos/broken.jpg: cannot identify" in err
    assert not (photos / "out").exists()


def test_a_dry_run_lists_and_writes_nothing(tool, photos, tiny_run, capsys):
    before = files(photos)
    line = ["--model", str(tiny_run), "photos/*/1.png", "--output", "out", "--dry-run"]
    assert tool.main(line) == 0
    out = capsys.readouterr().out
    assert "photos/a/1.png -> out/a/1.png" in out and "out/predictions.csv" in out
    assert files(photos) == before


class FakeCamera:
    """Four frames, then Ctrl-C."""

    def __init__(self, number):
        self.frames = 0

    def isOpened(self):
        return True

    def get(self, what):
        return {cv2.CAP_PROP_FPS: 7.0}.get(what, 0.0)

    def read(self):
        if self.frames == 4:
            raise KeyboardInterrupt
        self.frames += 1
        return True, np.zeros((60, 80, 3), np.uint8)

    def release(self):
        pass


def test_a_camera_until_ctrl_c(tool, photos, tiny_run, monkeypatch, capsys):
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    assert tool.main(["--model", str(tiny_run), "0", "--output", "out"]) == 0
    monkeypatch.setattr(cv2, "VideoCapture", real)
    assert "in 4 image(s)" in capsys.readouterr().out
    video = cv2.VideoCapture("out/camera0.mp4")
    assert [video.get(x) for x in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT)] == [7, 4]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": ["photos/c"]}, "there is no file photos/c"),
        ({"inputs": []}, "no input: name images"),
        (
            {"inputs": ["photos", "--data", "photos", "x.json"]},
            "photos cannot be predicted as well",
        ),
        ({"inputs": ["--data", "photos", "x.json"]}, "--data: x.json is no file: give COCO's"),
        ({"inputs": ["--data", "photos", "photos"]}, "--data: photos is no file: give COCO's"),
        ({"inputs": ["*.jpg"]}, "nothing matches"),
        ({"--output": "photos"}, "1 of 1 files left out: in the output folder"),
        (
            {"inputs": ["photos/a/*"], "--output": "photos/a"},
            "1 of 1 files left out: in the output folder",
        ),
        ({"inputs": ["99"]}, "there is no camera 99"),
        ({"--classes": "sqare"}, "the nearest are square"),
        ({"--model": "mask_rcnn_regnetx_400mf_fpn_9x"}, "mask_rcnn_regnetx_400mf_fpn_3x"),
        ({"--weights": "nowhere.pth"}, "nowhere.pth"),
        ({"--threshold": "7"}, "threshold"),
        ({"--max-frames": "0"}, "--max-frames"),
        ({"--device": "gpu"}, "'gpu' is not a device"),
        ({"--output": "photos/a/1.png"}, "is not a folder"),
        ({"--output": "photos/a/1.png/out"}, "photos/a/1.png is not a folder"),
        ({"--weights": "photos/broken.jpg"}, "broken.jpg: is not a checkpoint"),
        (
            {"--model": "mask_rcnn_regnety_400mf_fpn_1x"},
            "or give a checkpoint of it with --weights",
        ),
        ({"--model": "photos"}, "photos has no config.yaml"),
        ({"--model": "broken.yaml"}, "broken.yaml: ParserError"),
        ({"--model": "other.yaml"}, "other.yaml: Non-existent config key: MODEL.NOWHERE"),
    ],
)
def test_bad_input_is_one_line(tool, photos, tiny_run, refused, changes, said):
    line = {"inputs": ["photos/a"], "--model": str(tiny_run), "--output": "out"} | changes
    inputs = line.pop("inputs")
    before = files(photos)
    assert said in refused(tool.main, *inputs, *(word for pair in line.items() for word in pair))
    assert files(photos) == before


IDS = {
    "numbers": [0, -7, 2**53 + 1, 2**53 + 2, 5],
    "texts": ["a", "b/2", "17", "é", ""],
    "128 bits": [2**100 + i for i in range(5)],
}


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """listed(ids, **changes): val/ with images in sub-folders, one of them turned by EXIF and
    annotated as it is stored, and val.json, whose only object of each is white on black."""
    monkeypatch.chdir(tmp_path)

    def write(ids, change=lambda coco: None):
        coco = {"images": [], "annotations": []}
        coco["categories"] = [{"id": 70, "name": "star"}, {"id": -3, "name": "circle"}]
        for i, number in enumerate(ids):
            name = f"{'ab'[i % 2]}/{i}.png"
            Path("val", name).parent.mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((60, 90, 3), np.uint8)
            pixels[10:30, 20 + i : 70] = 255
            exif = Image.Exif()
            exif[274] = 6 if i == 1 else 1
            Image.fromarray(pixels).save(Path("val", name), exif=exif)
            coco["images"].append({"id": number, "file_name": name, "width": 90, "height": 60})
            box = [20 + i, 10, 50 - i, 20]
            coco["annotations"].append(
                {"id": i + 1, "image_id": number, "category_id": [70, -3][i % 2], "bbox": box}
                | {"area": box[2] * box[3], "iscrowd": 0}
            )
        change(coco)
        Path("val.json").write_text(json.dumps(coco))
        return ["--data", "val", "val.json"]

    return write


class FindsWhite:
    """In the place of a predictor: the white box of each image, a star or a circle by turns."""

    batch_size, count = 2, 0

    def __init__(self, *args, **options):
        ids = {i + 1: i for i in range(6)}
        self.metadata = Metadata(thing_classes=CLASSES, thing_dataset_id_to_contiguous_id=ids)

    def stream(self, images, array_format):
        for image in images:
            y, x = image[:, :, 0].nonzero()
            kind = CLASSES.index(["star", "circle"][self.count % 2])
            self.count += 1
            box = torch.tensor([[x.min(), y.min(), x.max() + 1, y.max() + 1]]).float()
            instances = Instances(image.shape[:2], pred_boxes=Boxes(box))
            instances.scores, instances.pred_classes = torch.ones(1), torch.tensor([kind])
            yield Prediction(instances, self.metadata)


@pytest.mark.parametrize("kind", IDS)
def test_the_ids_of_a_coco_file_are_kept(tool, listed, tiny_run, monkeypatch, kind):
    """Perfect predictions have AP 100 against the file, as pycocotools reads both."""
    monkeypatch.setattr(exported, "Predictor", FindsWhite)
    line = ["--model", str(tiny_run), *listed(IDS[kind]), "--output", "out", "--no-drawings"]
    assert tool.main(line) == 0
    found = json.loads(Path("out/predictions.json").read_text())
    written = json.loads(Path("val.json").read_text())
    assert found["images"] == written["images"]
    assert [each["image_id"] for each in found["annotations"]] == IDS[kind]
    names = {each["name"]: each["id"] for each in found["categories"]}
    assert names["star"] == 70 and names["circle"] == -3 and len(set(names.values())) == 6
    truth = COCO("val.json")
    compared = COCOeval(truth, truth.loadRes(found["annotations"]), "bbox")
    compared.evaluate()
    compared.accumulate()
    compared.summarize()
    assert compared.stats[0] == 1


def test_a_listed_image_is_drawn_below_its_folder(tool, listed, tiny_run):
    line = ["--model", str(tiny_run), "--device", "cpu", *listed([1, 2]), "--output", "out"]
    assert tool.main(line) == 0
    names = ["a/0.png", "b/1.png", "predictions.csv", "predictions.json"]
    assert files(Path("out")) == names


def image(**fields):
    return lambda coco: coco["images"][1].update(fields)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (image(id=1.5), "image without an id"),
        (image(id=None), "image without an id"),
        (image(id="b"), "texts and numbers"),
        (image(id=1), "duplicate image id"),
        (image(file_name="b/gone.png"), "1 of 2 images cannot be used, .*b/gone.png"),
        (image(width=91), "annotated 91 x 60, is 60 x 90"),
        (image(width="wide"), "width and height are 'wide'"),
        (image(width="90"), "written as text or fraction: images.1.: width '90'"),
        (lambda coco: coco["categories"][0].update(id="star"), "category without a whole number"),
        (lambda coco: coco["categories"][0].update(name="cow"), None),
        (
            lambda coco: (
                [c.update(name="cow") for c in coco["categories"][:1]] + [coco["categories"].pop()]
            ),
            "none of them",
        ),
        (lambda coco: coco["categories"][0].update(name="circle"), "two classes of one name"),
        (lambda coco: coco.pop("images"), "no list of images"),
    ],
)
def test_listed_images_that_cannot_keep_their_ids(tool, listed, tiny_run, refused, change, said):
    line = ["--model", str(tiny_run), "--device", "cpu", *listed([1, 2], change), "--output", "out"]
    if said is None:  # a class that the model does not have
        assert tool.main(line) == 0
    else:
        error = refused(tool.main, *line)
        assert re.search(said, error) and "val.json" in error, error
        assert not Path("out").exists()
