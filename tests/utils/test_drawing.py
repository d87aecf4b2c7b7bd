"""Drawn images: their size, where colour is, and that labels are inside."""

import numpy as np
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from d2_regnet.utils.drawing import (
    draw_instances,
    enlarged,
    from_annotations,
    from_results,
    truth_and_found,
    zoom,
)

METADATA = Metadata(thing_classes=["person"], thing_colors=[(255, 0, 0)])


def one(height, width, box, mask=None):
    fields = {"pred_masks": torch.as_tensor(mask)[None]} if mask is not None else {}
    return Instances(
        (height, width),
        pred_boxes=Boxes(torch.tensor([box], dtype=torch.float)),
        pred_classes=torch.tensor([0]),
        scores=torch.tensor([0.93]),
        **fields,
    )


@pytest.mark.parametrize(
    ("size", "times"), [((1, 1), 8), ((60, 80), 6), ((160, 96), 3), ((480, 640), 1)]
)
def test_small_images_are_enlarged(size, times):
    image = np.zeros((*size, 3), np.uint8)
    assert zoom(*size) == times
    nothing = one(*size, [0, 0, 1, 1])[:0]
    assert draw_instances(image, nothing, METADATA).shape == (times * size[0], times * size[1], 3)
    assert draw_instances(image, nothing, METADATA, enlarge=False).shape == image.shape
    assert enlarged(image[..., 0]).shape == (times * size[0], times * size[1])


def test_a_mask_is_tinted_and_nothing_else():
    image = np.full((500, 600, 3), 100, np.uint8)
    mask = np.zeros((500, 600), bool)
    mask[200:400, 100:300] = True
    mask[280:320, 180:220] = False  # a hole
    drawn = draw_instances(image, one(500, 600, [100, 200, 300, 400], mask), METADATA)
    assert (image == 100).all()
    inside = drawn[250, 150].astype(int)
    assert inside[0] > 150 and abs(inside[1] - 60) < 3
    assert (drawn[300, 200] == 100).all()
    assert (drawn[420:, :] == 100).all() and (drawn[:, 330:] == 100).all()


@pytest.mark.parametrize("box", [[0, 0, 50, 40], [590, 0, 600, 30], [580, 470, 600, 500]])
def test_labels_stay_inside(box):
    """Most of a label's ground is seen at the edge, too, where a box may cross it."""
    image = np.full((500, 600, 3), 255, np.uint8)

    def ink(box):
        drawn = draw_instances(image, one(500, 600, box), METADATA)
        return (drawn.max(axis=2) < 80).sum()  # the label's ground

    assert ink(box) > 0.7 * ink([300, 250, 350, 290])


def test_ground_truth_and_results_say_the_same():
    mask = np.zeros((40, 50), np.uint8)
    mask[10:20, 5:25] = 1
    rle = coco_mask.encode(np.asfortranarray(mask))
    truth = from_annotations(
        [
            {
                "bbox": [5, 10, 20, 10],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 1,
                "segmentation": rle,
            }
        ],
        (40, 50),
    )
    result = {"bbox": [5, 10, 20, 10], "category_id": 9, "segmentation": rle, "score": 0.5}
    found = from_results([result], (40, 50), {9: 1})
    assert truth.pred_boxes.tensor.tolist() == found.pred_boxes.tensor.tolist()
    assert truth.pred_classes.tolist() == found.pred_classes.tolist() == [1]
    assert torch.equal(truth.pred_masks, found.pred_masks)
    assert not truth.has("scores") and found.scores.tolist() == [0.5]
    assert len(from_annotations([], (40, 50))) == len(from_results([], (40, 50), {})) == 0


def test_truth_and_what_was_found_of_each_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    record = dict(file_name=str(tmp_path / "a.png"), height=30, width=40)
    thing = dict(bbox=[1, 2, 3, 4], bbox_mode=BoxMode.XYWH_ABS, category_id=0)
    records = [record | {"image_id": 7, "annotations": [thing]}, record | {"image_id": 8}]
    result = dict(bbox=[1, 2, 3, 4], category_id=5)
    results = [result | dict(image_id=i, score=s) for i, s in ((7, 0.9), (8, 0.49), (9, 0.9))]
    metadata = Metadata(thing_dataset_id_to_contiguous_id={5: 0})
    (image, truth, found), (_, no_truth, nothing) = truth_and_found(records, results, metadata)
    np.testing.assert_array_equal(image, pixels)
    assert truth.pred_boxes.tensor.tolist() == found.pred_boxes.tensor.tolist() == [[1, 2, 4, 6]]
    assert len(no_truth) == len(nothing) == 0
