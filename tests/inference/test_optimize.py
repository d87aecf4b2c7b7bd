"""The optimized detector gives the plain one's answers, and is what it says."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.structures import pairwise_iou
from torch import nn

from d2_regnet import model_zoo, optimize_for_inference
from d2_regnet.config import yacs_options
from d2_regnet.model_zoo.recipes import recipe

MODELS = [
    ("mask_rcnn", "RegNetY-200MF"),
    ("mask_rcnn", "r50"),
    ("retinanet", "RegNetX-200MF"),
    pytest.param(("cascade_mask_rcnn", "RegNetX-200MF"), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=MODELS, ids=lambda kind: "-".join(kind))
def detector(request):
    """A detector whose random weights answer to the image: 100 detections of many scores."""
    torch.manual_seed(0)
    model = instantiate(recipe(*request.param, "1x").model).eval()
    for name, module in model.named_modules():
        if hasattr(module, "running_var"):
            last = name.endswith(("c_bn", "conv3.norm"))
            module.weight.data.uniform_(0.1, 0.3 if last else 1.0)
            module.bias.data.normal_(0, 0.05)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        elif name.endswith(("cls_score", "bbox_pred", "objectness_logits")):
            nn.init.normal_(module.weight, std=0.05)
            # A RetinaNet's scores are sigmoids, the best of which a larger bias saturates: ties.
            classes = 0.5 if request.param[0] == "retinanet" else 3.0
            nn.init.normal_(module.bias, std=classes if "cls_score" in name else 0.05)
    return model


@pytest.fixture(scope="module")
def images():
    """Two noisy images of different sizes, as a detector takes them."""
    rng = np.random.RandomState(0)
    images = []
    for height, width in ((96, 160), (128, 96)):
        coarse = torch.from_numpy(rng.randint(0, 256, (3, height // 8, width // 8)))
        image = nn.functional.interpolate(coarse[None].float(), scale_factor=8)[0]
        images.append({"image": image, "height": 2 * height, "width": 2 * width})
    return images


def answers(model, images):
    with torch.no_grad():
        return [each["instances"] for each in model(images)]


def test_same_detections_in_float32(detector, images):
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    optimized = optimize_for_inference(detector)
    for ours, plain in zip(answers(optimized, images), answers(detector, images)):
        assert len(ours) == len(plain) >= 50
        # In any order: rounding may swap detections with all but equal scores.
        same = pairwise_iou(plain.pred_boxes, ours.pred_boxes) > 0.999
        same &= (plain.scores[:, None] - ours.scores).abs() < 1e-4
        same &= plain.pred_classes[:, None] == ours.pred_classes
        paired = same.any(dim=1)
        assert paired.float().mean() >= 0.98
        if plain.has("pred_masks"):
            masks = ours.pred_masks[same.int().argmax(dim=1)]
            assert (masks != plain.pred_masks)[paired].float().mean() < 1e-4
    for name, value in detector.state_dict().items():
        assert torch.equal(value, before[name]), name  # the plain model is left as it was


def test_norms_are_gone_and_weights_are_channels_last(detector):
    optimized = optimize_for_inference(detector)
    assert any("BN" in type(m).__name__ for m in detector.modules())
    assert not any(hasattr(m, "running_var") for m in optimized.modules())
    weight = optimized.backbone.fpn_lateral3.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not optimized.training and not any(p.requires_grad for p in optimized.parameters())


def test_low_precision_answers_are_float32_and_close(detector, images):
    low = optimize_for_inference(detector, dtype=torch.bfloat16)
    assert low.backbone.fpn_output3.weight.dtype == torch.bfloat16
    x = detector.preprocess_image(images).tensor
    with torch.no_grad():
        exact, rounded = detector.backbone(x), low.backbone(x)
    for name, value in exact.items():
        assert rounded[name].dtype == torch.bfloat16
        assert (rounded[name].float() - value).norm() < 0.03 * value.norm(), name
    if hasattr(low, "proposal_generator"):  # few objects: some processors are slow in bfloat16
        low.proposal_generator.post_nms_topk[False] = 50
        low.roi_heads.box_predictor.test_topk_per_image = 5
    for instances in answers(low, images[:1]):
        assert len(instances)
        assert instances.scores.dtype == instances.pred_boxes.tensor.dtype == torch.float32


def test_other_precisions_are_refused(detector):
    with pytest.raises(ValueError, match="dtype must be float32, bfloat16 or float16"):
        optimize_for_inference(detector, dtype=torch.int8)


@pytest.mark.slow
def test_compiled_for_all_sizes_after_the_first(detector):
    # Large enough that no level is one cell high or wide, which torch.compile treats apart.
    compiled = optimize_for_inference(detector, compile=True)
    optimized = optimize_for_inference(detector)
    graphs = []
    for size in ((320, 320), (384, 288), (256, 416), (288, 288), (512, 256), (320, 448)):
        torch._dynamo.utils.counters.clear()
        images = [{"image": torch.rand(3, *size) * 255}]
        (ours,), (plain,) = answers(compiled, images), answers(optimized, images)
        torch.testing.assert_close(ours.scores, plain.scores, rtol=0, atol=1e-4)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] > 0 and graphs[2:] == [0] * 4


@pytest.fixture
def cfg():
    """A small yacs RetinaNet with random weights, on the CPU."""
    cfg = model_zoo.get_config("retinanet_regnetx_800mf_fpn_1x.yaml")
    cfg.MODEL.REGNETS.ARCH = "RegNetX-200MF"
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.INPUT.MIN_SIZE_TEST = "cpu", "", 96
    return cfg


def optimized(cfg):
    cfg = cfg.clone()
    cfg.MODEL.META_ARCHITECTURE = "Optimized" + cfg.MODEL.META_ARCHITECTURE
    return cfg


@pytest.mark.parametrize(
    "dtype, rtol", [("float32", 1e-4), ("bfloat16", 0.05)], ids=["float32", "bfloat16"]
)
def test_default_predictor_by_a_setting(cfg, tmp_path, seed, dtype, rtol):
    plain = build_model(cfg)
    nn.init.normal_(plain.head.cls_score.weight, std=0.5)
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    torch.save({"model": plain.state_dict()}, cfg.MODEL.WEIGHTS)
    image = np.random.RandomState(0).randint(0, 256, (96, 128, 3), np.uint8)
    expected = DefaultPredictor(cfg)(image)["instances"]

    cfg.MODEL.OPTIMIZED.DTYPE = dtype
    predictor = DefaultPredictor(optimized(cfg))
    found = predictor(image)["instances"]
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(found.scores, expected.scores, rtol=rtol, atol=rtol)
    (working,) = predictor.model._optimized
    assert working.backbone.fpn_output3.weight.dtype == getattr(torch, dtype)
    assert predictor.model.state_dict().keys() == plain.state_dict().keys()
    predictor(image)
    assert predictor.model._optimized[0] is working  # made once


def test_a_copy_is_as_old_as_its_weights(cfg, seed):
    model = build_model(optimized(cfg)).eval()
    image = [{"image": torch.rand(3, 64, 64) * 255}]
    before = answers(model, image)[0].scores

    nn.init.normal_(model.head.cls_score.weight, std=0.5)
    assert torch.equal(answers(model, image)[0].scores, before)
    model.load_state_dict(model.state_dict())
    assert not torch.equal(answers(model, image)[0].scores, before)

    model.train()
    with torch.no_grad():
        model.head.cls_score.weight.zero_()
    model.eval()
    assert answers(model, image)[0].scores.std() < 1e-5


@pytest.mark.parametrize("name", ["GeneralizedRCNN", "RetinaNet", "MMDetRetinaNet"])
def test_every_meta_architecture_has_an_optimized_form(cfg, name):
    if name == "GeneralizedRCNN":
        cfg = model_zoo.get_config("faster_rcnn_regnetx_400mf_fpn_3x.yaml")
        cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = name
    plain, model = build_model(cfg), build_model(optimized(cfg))
    assert isinstance(model, type(plain))
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_bad_options_of_yacs_configs_are_named(cfg):
    cfg.MODEL.OPTIMIZED.DTYPE = "int8"
    with pytest.raises(ValueError, match="OPTIMIZED.DTYPE: 'int8' is not a dtype: it is one of fl"):
        build_model(optimized(cfg))
    with pytest.raises(ValueError, match="'OptimizedRCNN' is unknown; the nearest are Optimized"):
        cfg.MODEL.META_ARCHITECTURE = "OptimizedRCNN"
        yacs_options(cfg)
    without = get_cfg()
    without.MODEL.META_ARCHITECTURE = "OptimizedRetinaNet"
    with pytest.raises(ValueError, match="MODEL.OPTIMIZED is missing: .*add_regnet_config"):
        build_model(without)
