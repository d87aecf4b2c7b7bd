"""LabelMe's shapes, each with what LabelMe itself means by it."""

import base64
import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from d2_regnet.data.formats import read_dataset

HEIGHT, WIDTH = 120, 160
POLYGON = [[10, 10], [50, 12], [48, 60], [12, 55]]


def shape(points, kind=None, label="cap", **more):
    return {"label": label, "points": points} | ({"shape_type": kind} if kind else {}) | more


def png(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def read(maker, *shapes, **options):
    maker.image()
    maker.labelme(shapes=shapes)
    coco, account = read_dataset(maker.images, maker.labels, **options)
    assert account.total("objects") == len(shapes)
    return coco["annotations"], account


def pixels(annotation):
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH))
    return coco_mask.decode(segmentation).astype(bool)


def test_a_circle_is_a_polygon_of_its_area(maker):
    [found], _ = read(maker, shape([[80, 60], [100, 60]], "circle"))
    assert found["bbox"] == [60, 40, 40, 40]
    [polygon] = found["segmentation"]
    x, y = np.array(polygon[::2]), np.array(polygon[1::2])
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    assert area == pytest.approx(math.pi * 20**2, rel=0.005)
    np.testing.assert_allclose(np.hypot(x - 80, y - 60), 20)


def test_a_mask_lies_where_its_box_says(maker):
    drawn = np.zeros((11, 21), bool)
    drawn[2:5, 3:20] = True
    part = shape([[30, 50], [50, 60]], "mask", mask=png(drawn))
    [found], _ = read(maker, part)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[52:55, 33:50] = True
    assert np.array_equal(pixels(found), expected)
    assert found["bbox"] == [33, 52, 17, 3] and found["area"] == 51
    json.dumps(found)


def test_a_mask_that_hangs_over_the_edge_is_cut(maker):
    part = shape([[-5, 115], [5, 125]], "mask", mask=png(np.ones((11, 11), bool)))
    [found], _ = read(maker, part)
    assert found["bbox"] == [0, 115, 6, 5]


@pytest.mark.parametrize(
    "kind", [None, "polygon", "oriented_rectangle", "rotation", "quadrilateral"]
)
def test_polygons_under_every_name(maker, kind):
    [found], _ = read(maker, shape(POLYGON, kind))
    assert found["segmentation"] == [[value for point in POLYGON for value in point]]
    assert found["bbox"] == [10, 10, 40, 50]


@pytest.mark.parametrize("points", [[[50, 40], [10, 12]], [[10, 12], [50, 12], [50, 40], [10, 40]]])
def test_rectangles_of_two_corners_or_four(maker, points):
    [found], _ = read(maker, shape(points, "rectangle"))
    assert found["bbox"] == [10, 12, 40, 28] and "segmentation" not in found


@pytest.mark.parametrize("kind", ["line", "linestrip", "point", "points", "cuboid"])
def test_what_has_no_area_is_counted(maker, kind):
    found, account = read(maker, shape(POLYGON), shape([[1, 1], [9, 9]], kind, "scratch"))
    assert len(found) == 1
    [(thing, reason)] = [key for key in account.left_out if key[0] == "objects"]
    assert kind in reason and account.left_out[thing, reason].examples == ["a.json, shape 2"]
    assert any("'scratch' has no object" in line for line in account.lines())


@pytest.mark.parametrize("label", ["__ignore__", "_background_"])
def test_labelmes_own_labels_are_no_classes(maker, label):
    found, account = read(maker, shape(POLYGON), shape(POLYGON, label=label))
    assert len(found) == 1 and account.used["classes"] == 1
    assert any(label in line for line in account.lines())


def test_a_thin_polygon_takes_no_mask_away(maker):
    thin = [[100.2, 40.1], [130.3, 40.2], [115.0, 40.4]]
    found, account = read(maker, shape(POLYGON), shape(thin))
    assert ["segmentation" in each for each in found] == [True, False]
    assert found[1]["bbox"] == pytest.approx([100.2, 40.1, 30.1, 0.3])
    assert "1 of 2 objects: an outline that covers no pixel" in account.lines()[0]
    assert "a.json, shape 2" in account.lines()[0]


def test_groups_of_one_class_are_one_object(maker):
    parts = [shape([[x, 10], [x + 8, 10], [x + 8, 20]], group_id=0) for x in (10, 60)]
    mask = shape([[100, 50], [105, 55]], "mask", group_id=0, mask=png(np.ones((6, 6), bool)))
    found, account = read(maker, *parts, mask, shape(POLYGON, label="dog", group_id=0))
    assert [each["bbox"] for each in found] == [[10, 10, 96, 46], [10, 10, 40, 50]]
    drawn = pixels(found[0])
    assert (
        drawn[50:56, 100:106].all() and drawn[11, 15] and drawn[11, 65] and not drawn[:, 80].any()
    )
    assert "2 of 4 objects: a further part of another" in account.lines()[0]


def test_marks_and_blanks_are_read_over(maker):
    first = shape(POLYGON, label=" cap ", flags={"occluded": True}, description="x", difficult=True)
    found, account = read(maker, first, shape([[80, 40], [120, 40], [120, 70]], label="cap"))
    assert len(found) == 2 and account.used["classes"] == 1
    assert "marked difficult, and used" in account.lines()[0]


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_without_a_size(maker, size):
    maker.image()
    maker.labelme(shapes=[shape(POLYGON)], size=size)
    coco, _ = read_dataset(maker.images, maker.labels)
    assert (coco["images"][0]["width"], coco["images"][0]["height"]) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings(maker, encoding):
    maker.image()
    text = maker.labelme(shapes=[shape(POLYGON, label="café")]).read_text()
    maker.write("a.json", text.encode(encoding))
    coco, _ = read_dataset(maker.images, maker.labels)
    assert coco["categories"] == [{"id": 1, "name": "café"}]


@pytest.mark.parametrize("path", ["..\\img\\b.jpg", "C:\\work\\b.jpg", "../img/b.jpg", "b.jpg"])
def test_the_image_that_the_file_names(maker, path):
    maker.image("b.jpg")
    maker.labelme("elsewhere/0001.json", [shape(POLYGON)], path)
    coco, account = read_dataset(maker.images, maker.labels)
    assert coco["images"][0]["file_name"] == "b.jpg" and account.lines() == []


def test_an_image_in_the_json_alone_is_said(maker):
    maker.image("b.jpg")
    maker.labelme("b.json", [shape(POLYGON)], "b.jpg")
    maker.labelme("a.json", [shape(POLYGON)] * 3, "a.jpg", imageData="AAAA")
    coco, account = read_dataset(maker.images, maker.labels)
    assert len(coco["annotations"]) == 1 and account.total("objects") == 4
    assert any("3 of 4 objects left out" in line for line in account.lines())
    assert any("imageData" in line for line in account.lines())


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("no object", "it is not an object"),
        (shape(POLYGON, label=None), "its label is None"),
        (shape(POLYGON, label="  "), "its label is ' '"),
        (shape([[1, 2, 3]]), "not pairs of numbers"),
        (shape([[1, "x"], [2, 2], [3, 1]]), "'x' is not a number"),
        (shape([[1, float("nan")], [2, 2], [3, 1]]), "not a finite number"),
        (shape(None), "not pairs of numbers"),
        (shape([[1, 1]], "circle"), "a circle has 2 points, not 1"),
        (shape([[1, 1]], "rectangle"), "a rectangle has 2 points, not 1"),
        (shape([[1, 1], [3, 3]], "mask"), "its mask is not a PNG"),
        (shape([[1, 1], [3, 3]], "mask", mask="####"), "its mask is not a PNG"),
    ],
)
def test_what_cannot_be_understood_is_refused(maker, broken, said):
    with pytest.raises(
        ValueError, match=rf"cannot be read as labelme.* a\.json, shape 2: .*{said}"
    ):
        read(maker, shape(POLYGON), broken)


def test_a_data_set_of_lines_alone_is_refused_with_the_reason(maker):
    with pytest.raises(ValueError, match=r"no object that can be used.*a line, which has no area"):
        read(maker, shape([[1, 1], [9, 9]], "line"))


def test_coordinates_far_beyond_the_image_are_refused(maker):
    """With them pycocotools takes all memory, or crashes."""
    with pytest.raises(
        ValueError, match=r"a\.json, shape 1: it reaches 1e\+09, in an image of 160"
    ):
        read(maker, shape([[1, 1], [1e9, 1], [1e9, 1e9]]))
