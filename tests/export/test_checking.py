"""What counts as the same detection."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from d2_regnet.export import Agreement, agrees
from d2_regnet.export.checking import built_in_images, compare

BOXES = [[10, 10, 110, 110], [20, 20, 60, 60], [20, 20, 60, 60]]


@pytest.fixture
def eager():
    masks = torch.zeros(3, 120, 120, dtype=torch.bool)
    masks[:, 20:60, 20:60] = True
    masks[2] = False
    return Instances(
        (120, 120),
        pred_boxes=Boxes(torch.tensor(BOXES, dtype=torch.float32)),
        scores=torch.tensor([0.9, 0.8, 0.7]),
        pred_classes=torch.tensor([0, 1, 1]),
        pred_masks=masks,
    )


@pytest.fixture
def exported(eager):
    return {
        "boxes": np.array(BOXES, np.float32),
        "scores": np.array([0.9, 0.8, 0.7], np.float32),
        "classes": np.array([0, 1, 1]),
        "masks": eager.pred_masks.numpy().copy(),
    }


def test_identical(eager, exported):
    assert compare(eager, exported) == (3, 3, 3, 1.0, 1.0, 0.0)


def test_the_order_does_not_matter(eager, exported):
    turned = {name: array[::-1].copy() for name, array in exported.items()}
    assert compare(eager, turned) == (3, 3, 3, 1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    "name, index, value",
    [
        ("classes", 0, 1),
        ("scores", 0, 0.9012),
        ("boxes", 0, [10, 10, 110, 111.2]),
        ("masks", (1, 20), False),  # IoU 0.975
        ("masks", (2, 5, 5), True),  # one pixel where there was none
    ],
)
def test_one_that_differs(eager, exported, name, index, value):
    exported[name][index] = value
    assert compare(eager, exported)[:3] == (3, 3, 2)


def test_one_detection_is_paired_once(eager, exported):
    exported["scores"][:] = [0.9, 0.7, 0.7]
    exported["masks"][:] = False
    assert compare(eager, exported)[:3] == (3, 3, 1)


def test_nothing_found(eager, exported):
    none = {name: array[:0] for name, array in exported.items()}
    assert compare(eager[:0], exported)[:3] == (0, 3, 0)
    assert compare(eager, none)[:3] == (3, 0, 0)
    assert compare(eager[:0], none)[:3] == (0, 0, 0)


def test_98_of_100_must_agree():
    def result(eager, exported, paired):
        return Agreement(eager, exported, paired, 1.0, 1.0, 0.0, 1.0, 1.0)

    assert agrees([result(100, 100, 98), result(0, 0, 0)])
    assert not agrees([result(100, 100, 97)])
    assert not agrees([result(98, 101, 98)])
    assert not agrees([result(0, 0, 0)])


def test_built_in_images():
    images = built_in_images()
    assert len({image.shape for image in images.values()}) == len(images) == 4
    assert all(i.dtype == np.uint8 and i.shape[2] == 3 for i in images.values())
