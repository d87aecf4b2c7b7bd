"""The optimized detector gives the plain one's answers, and is what it says."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import pairwise_iou
from torch import nn

from d2_regnet.optimize import optimize_for_inference
from d2_regnet.recipes import recipe

ROWS = [
    ("mask_rcnn", "RegNetY-200MF"),
    ("mask_rcnn", "r50"),
    ("retinanet", "RegNetX-200MF"),
    pytest.param(("cascade_mask_rcnn", "RegNetX-200MF"), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: "-".join(row))
def detector(request):
    """A detector whose random weights answer to the picture: 100 detections of many scores."""
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
            nn.init.normal_(module.bias, std=3.0 if "cls_score" in name else 0.05)
    return model


@pytest.fixture(scope="module")
def pictures():
    """Two noisy pictures of different sizes, as a detector takes them."""
    rng = np.random.RandomState(0)
    pictures = []
    for height, width in ((96, 160), (128, 96)):
        coarse = torch.from_numpy(rng.randint(0, 256, (3, height // 8, width // 8)))
        image = nn.functional.interpolate(coarse[None].float(), scale_factor=8)[0]
        pictures.append({"image": image, "height": 2 * height, "width": 2 * width})
    return pictures


def answers(model, pictures):
    with torch.no_grad():
        return [each["instances"] for each in model(pictures)]


def test_same_detections_in_float32(detector, pictures):
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    optimized = optimize_for_inference(detector)
    for ours, plain in zip(answers(optimized, pictures), answers(detector, pictures)):
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
    weight = optimized.backbone.fpn_output3.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not optimized.training and not any(p.requires_grad for p in optimized.parameters())


def test_low_precision_answers_are_float32_and_close(detector, pictures):
    low = optimize_for_inference(detector, dtype=torch.bfloat16)
    assert low.backbone.fpn_output3.weight.dtype == torch.bfloat16
    x = detector.preprocess_image(pictures).tensor
    with torch.no_grad():
        exact, rounded = detector.backbone(x), low.backbone(x)
    for name, value in exact.items():
        assert rounded[name].dtype == torch.float32
        assert (rounded[name] - value).norm() < 0.03 * value.norm(), name
    for instances in answers(low, pictures):
        assert instances.scores.dtype == instances.pred_boxes.tensor.dtype == torch.float32


def test_other_precisions_are_refused(detector):
    with pytest.raises(ValueError, match="dtype must be float32, bfloat16 or float16"):
        optimize_for_inference(detector, dtype=torch.int8)


@pytest.mark.slow
def test_compiled_for_all_sizes_after_the_first(detector):
    # Large enough that no level is one cell high or wide, which torch.compile treats apart.
    compiled = optimize_for_inference(detector, compile=True)
    optimized = optimize_for_inference(detector)
    for size in ((256, 320), (384, 288), (320, 416)):
        torch._dynamo.utils.counters.clear()
        pictures = [{"image": torch.rand(3, *size) * 255}]
        (ours,), (plain,) = answers(compiled, pictures), answers(optimized, pictures)
        torch.testing.assert_close(ours.scores, plain.scores, rtol=0, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0  # of the last size
