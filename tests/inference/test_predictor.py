"""The predictor against Detectron2's own, and its inputs of all kinds against one another."""

import io
import logging

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from PIL import Image
from pycocotools import mask as coco_mask

from d2_regnet.data.shapes import CLASSES, render
from d2_regnet.engine import load_config
from d2_regnet.inference import Predictor, find_model
from d2_regnet.inference import predictor as module
from d2_regnet.model_zoo.yacs import to_yacs


@pytest.fixture(scope="module")
def cfg(tiny_run):
    return load_config(str(tiny_run / "config.yaml"))


@pytest.fixture(scope="module")
def weights(tiny_run):
    return str(tiny_run / "model_final.pth")


@pytest.fixture(scope="module")
def predictor(cfg, weights):
    return Predictor(cfg, weights, device="cpu", threshold=0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Files of three sizes."""
    folder = tmp_path_factory.mktemp("images")
    files = []
    for index in range(3):
        files.append(str(folder / f"{index}.png"))
        Image.fromarray(render(2, "val", index)[0]).save(files[-1])
    return files


def assert_same(found, expected, atol=1e-4):
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(
        found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=atol
    )
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=atol)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    assert (found.pred_masks != expected.pred_masks).float().mean() < 1e-3


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_answers_as_detectron2s_predictor(cfg, weights, images, order):
    cfg = cfg.copy()
    cfg.dataloader.train.mapper.image_format = order
    cfg.model.input_format = order
    cfg.model.backbone.bottom_up.arch.update(w_a=12.0, w_m=2.0)  # yacs tells them from integers
    yacs = to_yacs(cfg)
    yacs.MODEL.WEIGHTS, yacs.MODEL.DEVICE = weights, "cpu"
    theirs = DefaultPredictor(yacs)
    for ours in (
        Predictor(cfg, weights, device="cpu", threshold=0),
        Predictor(yacs, weights, device="cpu", threshold=0),
    ):
        assert ours.input_format == order
        for file in images:
            assert_same(ours(file).to_instances(), theirs(cv2.imread(file))["instances"])


def test_every_kind_of_image_is_read_in_the_same_order(predictor, images):
    expected = predictor(images[0]).instances
    rgb = np.asarray(Image.open(images[0]))
    alpha = np.dstack([rgb, np.full(rgb.shape[:2], 7, np.uint8)])
    bgr = cv2.imread(images[0])
    for image, order in [(rgb, None), (rgb, "RGB"), (alpha, "RGB"), (bgr, "BGR")]:
        assert_same(predictor(image, array_format=order).instances, expected, 0)
    assert_same(predictor(Image.open(images[0])).instances, expected, 0)
    wrong = predictor(bgr, array_format="RGB").instances
    assert len(wrong) != len(expected) or (wrong.scores - expected.scores).abs().max() > 1e-3
    grey = rgb[:, :, 0]
    assert_same(predictor(grey).instances, predictor(np.dstack([grey] * 3)).instances, 0)


@pytest.mark.parametrize(
    "nothing",
    [None, 7, cv2.imread("there/is/none.jpg"), b"JFIF", io.BytesIO(), {"image": 1}, torch.ones(3)],
)
def test_what_is_no_image_is_said(predictor, nothing):
    with pytest.raises(
        ValueError, match=r"an image is a path, a PIL image .*not (None|int|by|By|d|t)"
    ):
        predictor(nothing)


def test_16_bits_and_exif_are_read_as_from_files(predictor, images, tmp_path):
    rgb = np.asarray(Image.open(images[0]))
    grey = rgb[:, :, 0].astype(np.uint16) * 257
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(rgb)).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    expected = predictor(images[0]).instances
    assert_same(predictor(Image.open(tmp_path / "turned.png")).instances, expected, 0)
    deep = predictor(str(tmp_path / "deep.png")).instances
    assert_same(predictor(Image.open(tmp_path / "deep.png")).instances, deep, 0)
    assert_same(predictor(grey, array_format="RGB").instances, deep, 0)


def test_says_once_how_arrays_are_taken(predictor, caplog):
    module._say_the_order.cache_clear()
    with caplog.at_level(logging.WARNING):
        predictor([np.zeros((40, 40, 3), np.uint8)] * 2)
        predictor(np.zeros((40, 40, 3), np.uint8))
    assert caplog.text.count("array_format='BGR'") == 1


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (torch.zeros(3, 4, 4), "torch"),
        (None, "None, which is what cv2.imread gives for a file that it cannot read"),
        (b"bytes", "int|bytes"),
    ],
)
def test_other_arrays_are_refused(predictor, image, said):
    with pytest.raises(ValueError, match=said):
        predictor([image])


def test_a_batch_answers_as_its_images_do(cfg, weights, images):
    """To rounding, whether they are of one size or of several."""
    together = Predictor(cfg, weights, device="cpu", batch_size=3, threshold=0)
    alone = Predictor(cfg, weights, device="cpu", threshold=0)
    same = [np.asarray(Image.open(images[0]))[::step, ::step] for step in (1, -1)]
    for found, each in zip(together(same, array_format="RGB"), same):
        assert_same(found.instances, alone(each, array_format="RGB").instances, 1e-3)
    found = together(images)
    assert [each.instances.image_size for each in found] == [
        cv2.imread(file).shape[:2] for file in images
    ]
    for each, file in zip(found, images):
        assert_same(each.instances, alone(file).instances, 1e-3)
    assert together([]) == []


def test_threshold_and_classes(cfg, weights, predictor, images):
    everything = predictor(images[0])
    kind = everything.names[0]
    score = float(everything.instances.scores.median())
    chosen = Predictor(cfg, weights, device="cpu", threshold=score, classes=[kind])(images[0])
    expected = [
        (name, s)
        for name, s in zip(everything.names, everything.instances.scores.tolist())
        if name == kind and s >= score
    ]
    assert list(zip(chosen.names, chosen.instances.scores.tolist())) == expected
    assert 0 < len(chosen) < len(everything)


def test_other_precision(cfg, weights, predictor, images):
    assert_same(
        Predictor(cfg, weights, device="cpu", dtype=torch.float32, threshold=0)(
            images[0]
        ).instances,
        predictor(images[0]).instances,
        1e-3,
    )


def test_the_forms_of_a_result(predictor, images):
    found = predictor(images[0])
    instances = found.to_instances()
    coco = found.to_coco(image_id=7)
    assert coco == [
        {**each, "category_id": each["category_id"] + 1}
        for each in instances_to_coco_json(instances, 7)
    ]
    assert coco_mask.decode(coco[0]["segmentation"]).sum() == instances.pred_masks[0].sum()
    detections = found.to_supervision()
    np.testing.assert_array_equal(detections.xyxy, instances.pred_boxes.tensor.numpy())
    np.testing.assert_array_equal(detections.class_id, instances.pred_classes.numpy())
    np.testing.assert_array_equal(detections.mask, instances.pred_masks.numpy())
    assert detections.data["class_name"].tolist() == found.names
    assert set(found.names) <= set(CLASSES) == set(predictor.classes)


def test_nothing_found_has_all_forms(cfg, weights, images):
    found = Predictor(cfg, weights, device="cpu", threshold=1)(images[0])
    assert len(found) == 0 and found.to_coco() == [] and len(found.to_supervision()) == 0
    assert found.draw(cv2.imread(images[0])).shape[2] == 3


def test_from_zoo_takes_the_published_weights(monkeypatch, tiny_run):
    asked = []
    monkeypatch.setattr(
        module, "find_model", lambda name: asked.append(name) or find_model(str(tiny_run))
    )
    assert Predictor.from_zoo("mask_rcnn_regnetx_400mf_fpn_3x", device="cpu").classes
    assert asked == ["mask_rcnn_regnetx_400mf_fpn_3x"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 2}, "threshold"),
        ({"batch_size": 0}, "batch size"),
        ({"classes": ["sqare"]}, "no class 'sqare': the nearest are square"),
        ({"device": "gpu"}, "'gpu' is not a device"),
        ({"device": "cuda:99"}, "GPU"),
    ],
)
def test_impossible_arguments(cfg, weights, options, said):
    with pytest.raises(ValueError, match=said):
        Predictor(cfg, weights, **{"device": "cpu", **options})


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"input_format": "RGB"}, "trained on RGB images, the config's are BGR"),
        ({"pixel_std": [1.0, 1.0, 1.0]}, r"trained with pixel_std \[1, 1, 1\]"),
    ],
)
def test_weights_of_other_images_are_refused(cfg, weights, tmp_path, meta, said):
    torch.save({"model": torch.load(weights)["model"], **meta}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=said):
        Predictor(cfg, str(tmp_path / "w.pth"), device="cpu")


def test_the_weights_name_their_classes(cfg, weights, tmp_path):
    """In their own order, under the ids of the data set where it has the same names."""
    turned = [*CLASSES[1:], CLASSES[0]]
    for names in (turned, [f"kind {i}" for i in range(6)], ["too", "few"]):
        torch.save({"model": torch.load(weights)["model"], "classes": names}, tmp_path / "w.pth")
        found = Predictor(cfg, str(tmp_path / "w.pth"), device="cpu")
        assert found.classes == (names if len(names) == 6 else list(CLASSES))
        ids = found.metadata.thing_dataset_id_to_contiguous_id
        numbers = [CLASSES.index(name) + 1 for name in turned] if names == turned else range(1, 7)
        assert ids == {number: i for i, number in enumerate(numbers)}


def test_weights_of_a_backbone_alone_are_refused(cfg, weights, tmp_path):
    state = torch.load(weights)["model"]
    backbone = {name: tensor for name, tensor in state.items() if "bottom_up" in name}
    torch.save({"model": backbone}, tmp_path / "backbone.pth")
    with pytest.raises(ValueError, match=r"backbone\.pth has no values, .* only a backbone"):
        Predictor(cfg, str(tmp_path / "backbone.pth"), device="cpu")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        Predictor(cfg, "nowhere.pth", device="cpu", threshold=0)
