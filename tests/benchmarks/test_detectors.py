"""Detectors to be compared: the same weights, plausible detections, and what counts as the same."""

from argparse import Namespace

import torch
from detectron2.modeling.backbone.regnet import RegNet
from detectron2.structures import Boxes, Instances

from benchmarks.detector import same_detections
from benchmarks.detectors import detector, images, load, random_state
from benchmarks.train import memory

MODEL = "retinanet_regnetx_200mf_fpn_1x"
SIZE = (128, 192)


def test_random_weights_detect_alike_around_either_backbone():
    state = random_state(MODEL, SIZE)
    answers = []
    for peer in ("ours", "detectron2"):
        model = detector(MODEL, peer).eval()
        load(model, state)
        assert (type(model.backbone.bottom_up) is RegNet) == (peer == "detectron2")
        with torch.no_grad():
            answers.append(model(images(1, SIZE))[0]["instances"])
    assert 10 < len(answers[0]) <= 100
    assert same_detections(*answers) >= 0.95 * len(answers[0])


def test_same_detections_by_hand():
    def found(boxes, classes):
        instances = Instances((50, 50))
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.pred_classes = torch.tensor(classes)
        return instances

    a = found([[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 5, 5]], [1, 2, 3])
    # The second moved by a tenth of its side (IoU 0.82), the third of another class.
    b = found([[0, 0, 5, 5], [22, 20, 42, 40], [0, 0, 10, 10]], [4, 2, 1])
    assert same_detections(a, b) == 1
    assert same_detections(a, a) == 3
    assert same_detections(a, b[:0]) == same_detections(a[:0], b) == 0


def test_images_are_the_same_at_every_call():
    first, again = images(2, (64, 96), True), images(2, (64, 96), True)
    for a, b in zip(first, again):
        assert torch.equal(a["image"], b["image"]) and a["image"].shape == (3, 64, 96)
        boxes = a["instances"].gt_boxes.tensor
        assert torch.equal(boxes, b["instances"].gt_boxes.tensor)
        masks = a["instances"].gt_masks.tensor
        assert masks.any((1, 2)).all() and boxes.min() >= 0
    assert not torch.equal(first[0]["image"], first[1]["image"])


def test_memory_of_two_images_is_twice_that_of_one_and_the_weights():
    name = "retinanet_regnetx_800mf_fpn_1x"
    (one,), (two,) = (
        memory(name, ["ours"], Namespace(size=(64, 96), batch=batch, amp=False, device="cpu"))
        for batch in (1, 2)
    )
    assert one["saved_bytes"] == two["saved_bytes"] == two["bytes"] - one["bytes"]
    parameters = list(detector(name, "ours").parameters())
    trained = sum(each.numel() for each in parameters if each.requires_grad)
    assert one["bytes"] - one["saved_bytes"] == 4 * (
        sum(each.numel() for each in parameters) + 2 * trained
    )
    assert one["published"] == 2.5
