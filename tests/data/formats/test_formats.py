"""Hand-written data sets of each format, as the COCO dicts that they mean."""

import builtins
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from d2_regnet.data.checks import check_annotations
from d2_regnet.data.formats import read_dataset, recognise

WIDTH, HEIGHT = 80, 60
SQUARE = [[10, 10], [30, 10], [30, 30], [10, 30]]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (WIDTH, HEIGHT), "gray").save(folder / f"{name}.jpg")
    return folder


def labelme(folder, shapes):
    content = {"version": "5.5.0", "imagePath": "a.jpg", "imageHeight": HEIGHT}
    content |= {"imageWidth": WIDTH, "shapes": shapes}
    (folder / "a.json").write_text(json.dumps(content))


def shape(label, points, kind="polygon", group=None):
    return {"label": label, "points": points, "shape_type": kind, "group_id": group}


def decode(annotation):
    segmentation = annotation["segmentation"]
    rle = coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH)
    return coco_mask.decode(coco_mask.merge(rle) if isinstance(rle, list) else rle)


def boxes(coco):
    names = {each["id"]: each["name"] for each in coco["categories"]}
    return [(names[a["category_id"]], [round(x) for x in a["bbox"]]) for a in coco["annotations"]]


def test_labelme_polygons(images):
    two_parts = [[[50, 10], [58, 10], [58, 20], [50, 20]], [[50, 40], [58, 40], [58, 50], [50, 50]]]
    labelme(
        images,
        [shape("dog", SQUARE), *(shape("cat", part, group=1) for part in two_parts)],
    )
    assert recognise(images) == "labelme"
    coco, _ = read_dataset(images, images)
    assert [each["file_name"] for each in coco["images"]] == ["a.jpg"]
    assert sorted(boxes(coco)) == [("cat", [50, 10, 8, 40]), ("dog", [10, 10, 20, 20])]
    by_name = dict(zip([name for name, _ in boxes(coco)], coco["annotations"]))
    assert abs(int(decode(by_name["dog"]).sum()) - 21 * 21) < 45  # OpenCV's polygons have an edge
    parts = decode(by_name["cat"])
    assert parts[12:18, 52:56].all() and parts[42:48, 52:56].all() and not parts[25:35].any()
    # Of several parts, and still trained on.
    assert [each["iscrowd"] for each in coco["annotations"]] == [0, 0]
    assert not [f for f in check_annotations(coco) if f.level == "error"]


def test_labelme_rectangles_have_no_masks(images):
    labelme(images, [shape("dog", [[30, 30], [10, 10]], "rectangle")])
    coco, _ = read_dataset(images, images, "labelme")
    assert boxes(coco) == [("dog", [10, 10, 20, 20])]
    assert "segmentation" not in coco["annotations"][0]


def test_pascal_voc(images, tmp_path):
    folder = tmp_path / "Annotations"
    folder.mkdir()
    box = "<xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>50</ymax>"  # from 1, both inside
    (folder / "b.xml").write_text(
        f"<annotation><filename>b.jpg</filename><object><name>cat</name><bndbox>{box}</bndbox>"
        "<difficult>0</difficult></object></annotation>"
    )
    assert recognise(folder) == "voc"
    coco, _ = read_dataset(images, folder, unlabelled="empty")
    assert [each["file_name"] for each in coco["images"]] == ["a.jpg", "b.jpg"]
    assert (coco["images"][0]["width"], coco["images"][0]["height"]) == (WIDTH, HEIGHT)
    assert boxes(coco) == [("cat", [10, 20, 30, 30])]
    assert coco["annotations"][0]["image_id"] == coco["images"][1]["id"]


@pytest.mark.parametrize("names", ["data.yaml", "classes.txt", "above", "file"])
def test_yolo(images, tmp_path, names):
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "a.txt").write_text("1 0.25 0.5 0.25 0.5\n")  # class, centre, size: shares
    if names == "classes.txt":
        (folder / names).write_text("dog\ncat\n")
    else:
        place = folder if names == "data.yaml" else tmp_path
        (place / "data.yaml").write_text("nc: 2\nnames: [dog, cat]\n")
    annotations = tmp_path / "data.yaml" if names == "file" else folder
    assert recognise(annotations) == "yolo"
    coco, _ = read_dataset(images, annotations)
    assert len(coco["images"]) == 2
    assert [each["name"] for each in coco["categories"]] == ["dog", "cat"]
    assert boxes(coco) == [("cat", [10, 15, 20, 30])]
    assert not [f for f in check_annotations(coco) if f.level == "error"]


def test_yolo_polygons(images, tmp_path):
    (images / "classes.txt").write_text("dog\n")
    points = [value for x, y in SQUARE for value in (x / WIDTH, y / HEIGHT)]
    (images / "a.txt").write_text(f"0 {' '.join(map(str, points))}\n")
    coco, _ = read_dataset(images, images)
    mask = decode(coco["annotations"][0])
    assert mask[12:28, 12:28].all() and mask.sum() < 23 * 23


def test_coco_stays_as_it_is(images, tmp_path):
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 9, "name": "dog"}],
        "annotations": [],
    }
    file = tmp_path / "x.json"
    file.write_text(json.dumps(content))
    assert recognise(file) == "coco"
    assert read_dataset(images, file)[0] == content


@pytest.mark.parametrize(
    ("files", "format", "error", "said"),
    [
        ({}, None, ValueError, "no .xml, .json or .txt"),
        ({"a.xml": "<a>", "a.json": "{}"}, None, ValueError, "files of labelme and voc.*--format"),
        ({"a.xml": "<a>"}, None, ValueError, "cannot be read as voc"),
        ({"a.json": "{}"}, None, ValueError, "cannot be read as labelme"),
        ({"a.txt": "0 1 2"}, None, FileNotFoundError, "names of its classes"),
        ({"a.txt": "0 1 x 3 4", "classes.txt": "dog"}, None, ValueError, "cannot be read as yolo"),
        ({"a.txt": ""}, "yoolo", ValueError, "the nearest are yolo"),
    ],
)
def test_what_cannot_be_read(images, tmp_path, files, format, error, said):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(error, match=said):
        read_dataset(images, folder, format)


def test_missing_folders(images, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        read_dataset(tmp_path / "nowhere", images)
    with pytest.raises(FileNotFoundError, match="there is no .*nowhere"):
        read_dataset(images, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="of no known format"):
        recognise(images / "a.jpg")


def test_without_supervision(images, monkeypatch):
    (images / "classes.txt").write_text("dog\n")
    (images / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "supervision":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert boxes(read_dataset(images, images)[0]) == [("dog", [32, 24, 16, 12])]


def test_greyscale_and_png_are_images_too(tmp_path):
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "classes.txt").write_text("dog\n")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    assert boxes(read_dataset(tmp_path, tmp_path)[0]) == [("dog", [20, 15, 40, 30])]
