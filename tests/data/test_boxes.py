"""Boxes in every form that tools write, told by masks, by edges, or left alone."""

import numpy as np
import pytest

from d2_regnet.data.boxes import form_of_boxes
from d2_regnet.data.checks import check_annotations
from d2_regnet.data.cleaning import cleaned
from d2_regnet.data.findings import Kind

SIZE = np.array([160.0, 120.0])


@pytest.fixture
def boxes():
    """40 sound boxes of images of 160 x 120: x, y, width, height."""
    rng = np.random.RandomState(0)
    sides = rng.uniform(20, 60, (40, 2))
    return np.concatenate([2 + rng.rand(40, 2) * (SIZE - sides - 3), sides], 1)


def corners(b):
    return np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], 1)


def centres(b):
    return np.concatenate([b[:, :2] + b[:, 2:] / 2, b[:, 2:]], 1)


def fractions(b):
    return b / np.tile(SIZE, 2)


def read_as_centres(b):
    return np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, 2:]], 1)


def read_as_corners(b):
    return np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1)


# What is written -> what it is called, and whether that can be told without masks.
WRONG = {
    "corners": (corners, "corners (x0, y0, x1, y1) in pixels", True),
    "centres": (centres, "centres (x, y, width, height) in pixels", True),
    "fractions": (fractions, "(x, y, width, height) as fractions", True),
    "YOLO's fractions": (lambda b: fractions(centres(b)), "centres", True),
    "corners as fractions": (
        lambda b: fractions(corners(b)),
        "corners (x0, y0, x1, y1) as fr",
        True,
    ),
    "y first": (lambda b: b[:, [1, 0, 3, 2]], "(y, x, height, width) in pixels", False),
    "corners, y first": (
        lambda b: corners(b)[:, [1, 0, 3, 2]],
        "corners (y0, x0, y1, x1) in p",
        False,
    ),
    "percent": (lambda b: 100 * fractions(b), "in percent of the image", False),
    "thousandths": (lambda b: 1000 * fractions(corners(b)), "in thousandths of the image", False),
    "pixels in YOLO's labels": (lambda b: b * np.tile(SIZE, 2), "taken for fractions", True),
    "images three times as large": (lambda b: 3 * b, "3 and 3 times as large", False),
    "images of 640 x 640": (lambda b: b * np.tile([4, 640 / 120], 2), "4 and 5.33 times", False),
    "read as centres": (read_as_centres, "read as centres", True),
    "sizes in the place of xmax": (read_as_corners, "read as corners", False),
}


@pytest.mark.parametrize("kind", WRONG)
def test_forms_by_masks(boxes, kind):
    change, name, _ = WRONG[kind]
    form = form_of_boxes(change(boxes), np.tile(SIZE, (40, 1)), corners(boxes))
    assert name in str(form) and form.share > 0.9 and form.coco < 0.5


@pytest.mark.parametrize("kind", WRONG)
def test_forms_by_edges(boxes, kind):
    change, name, told = WRONG[kind]
    nothing = np.full((40, 4), np.nan)
    form = form_of_boxes(change(boxes), np.tile(SIZE, (40, 1)), nothing)
    assert form or kind == "percent"  # they could be small objects
    assert not told or name in str(form)


def test_sound_boxes_are_left_alone(boxes):
    sizes, nothing = np.tile(SIZE, (40, 1)), np.full((40, 4), np.nan)
    assert form_of_boxes(boxes, sizes, corners(boxes)) is None
    assert form_of_boxes(boxes, sizes, nothing) is None
    loose = boxes + np.array([-3, -3, 6, 6])  # drawn by hand, around the mask
    assert form_of_boxes(loose, sizes, corners(boxes)) is None
    amodal = np.where(np.arange(40)[:, None] % 3 == 0, boxes + np.array([0, 60, 0, 0]), boxes)
    assert form_of_boxes(amodal, sizes, nothing) is None  # a third goes on below the image
    few = boxes.copy()
    few[:2] += 500
    assert form_of_boxes(few, sizes, nothing) is None
    assert form_of_boxes(boxes[:1] + 500, sizes[:1], nothing[:1]) is None


def test_masks_that_are_fractions(boxes):
    form = form_of_boxes(boxes, np.tile(SIZE, (40, 1)), fractions(corners(boxes)))
    assert not form.name and "below a pixel" in str(form)


@pytest.mark.parametrize("masks", ["polygon", "none"])
@pytest.mark.parametrize("kind", [k for k in WRONG if WRONG[k][2]])
def test_a_wrong_form_is_one_error_that_cleaning_leaves(boxes, kind, masks):
    def polygon(x0, y0, x1, y1):
        return [[x0, y0, x1, y0, x1, y1, x0, y1]] if masks == "polygon" else []

    coco = {
        "images": [dict(id=1, file_name="1.png", width=160, height=120)],
        "categories": [dict(id=1, name="cap")],
        "annotations": [
            dict(id=i, image_id=1, category_id=1, iscrowd=0, area=9.0, bbox=box)
            | dict(segmentation=polygon(*mask))
            for i, (box, mask) in enumerate(
                zip(WRONG[kind][0](boxes).tolist(), corners(boxes).tolist()), 1
            )
        ],
    }
    findings = [f for f in check_annotations(coco) if f.level != "note"]
    assert [f.kind for f in findings] == [Kind.FORM_OF_BOXES]
    assert WRONG[kind][1] in findings[0].detail
    assert cleaned(coco, findings) == (coco, [])
