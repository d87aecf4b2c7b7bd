"""MMDetection's names and anchors in Detectron2's terms, and back."""

import itertools
import json
import re

import pytest
import torch
import torchvision
from detectron2.config import instantiate

from d2_regnet.checkpoint import mmdet
from d2_regnet.checkpoint.conversion import convert_state
from d2_regnet.model_zoo import detectors
from d2_regnet.modeling.backbone.resnet import build_resnet

KINDS = ["mask_rcnn", "faster_rcnn", "cascade_mask_rcnn", "retinanet"]
BODIES = {
    "regnet": lambda: detectors.regnet("RegNetX-400MF"),
    "deformable": lambda: detectors.regnet("RegNetX-400MF", deform_stages=["s2", "s3", "s4"]),
    "resnet": lambda: detectors.resnet(50),
    "resnext": lambda: detectors.resnet(101, num_groups=32, width_per_group=4),
}


def model(kind, body="regnet", num_classes=80):
    with torch.device("meta"):
        return instantiate(getattr(detectors, kind)(BODIES[body](), num_classes=num_classes))


def empty(state):
    """Tensors of the shapes that take no memory."""
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in state.items()}


# Names as MMDetection's own checkpoints have them -> Detectron2's.
@pytest.mark.parametrize(
    "kind, backbone, source, target",
    [
        ("mask_rcnn", "regnet", "backbone.bn1.bias", "backbone.bottom_up.stem.bn.bias"),
        (
            "mask_rcnn",
            "regnet",
            "backbone.layer3.6.conv2.weight",
            "backbone.bottom_up.s3.b7.f.b.weight",
        ),
        (
            "mask_rcnn",
            "regnet",
            "backbone.layer4.0.downsample.1.running_var",
            "backbone.bottom_up.s4.b1.bn.running_var",
        ),
        (
            "mask_rcnn",
            "deformable",
            "backbone.layer2.1.conv2.conv_offset.bias",
            "backbone.bottom_up.s2.b2.f.b.conv_offset.bias",
        ),
        (
            "mask_rcnn",
            "resnet",
            "backbone.bn1.running_mean",
            "backbone.bottom_up.stem.conv1.norm.running_mean",
        ),
        (
            "retinanet",
            "resnext",
            "backbone.layer3.22.bn3.weight",
            "backbone.bottom_up.res4.22.conv3.norm.weight",
        ),
        (
            "mask_rcnn",
            "resnet",
            "backbone.layer1.0.downsample.0.weight",
            "backbone.bottom_up.res2.0.shortcut.weight",
        ),
        ("mask_rcnn", "regnet", "neck.lateral_convs.0.conv.bias", "backbone.fpn_lateral2.bias"),
        ("retinanet", "regnet", "neck.lateral_convs.0.conv.bias", "backbone.fpn_lateral3.bias"),
        ("mask_rcnn", "regnet", "neck.fpn_convs.3.conv.weight", "backbone.fpn_output5.weight"),
        ("retinanet", "regnet", "neck.fpn_convs.3.conv.weight", "backbone.top_block.p6.weight"),
        (
            "faster_rcnn",
            "regnet",
            "rpn_head.rpn_reg.weight",
            "proposal_generator.rpn_head.anchor_deltas.weight",
        ),
        (
            "faster_rcnn",
            "regnet",
            "roi_head.bbox_head.shared_fcs.1.weight",
            "roi_heads.box_head.fc2.weight",
        ),
        (
            "cascade_mask_rcnn",
            "regnet",
            "roi_head.bbox_head.2.fc_reg.bias",
            "roi_heads.box_predictor.2.bbox_pred.bias",
        ),
        (
            "cascade_mask_rcnn",
            "regnet",
            "roi_head.mask_head.1.convs.3.conv.bias",
            "roi_heads.mask_head.1.mask_fcn4.bias",
        ),
        (
            "mask_rcnn",
            "regnet",
            "roi_head.mask_head.upsample.weight",
            "roi_heads.mask_head.deconv.weight",
        ),
        ("retinanet", "regnet", "bbox_head.reg_convs.3.conv.bias", "head.bbox_subnet.6.bias"),
    ],
)
def test_names(kind, backbone, source, target):
    state = empty(model(kind, backbone).state_dict())
    assert target in state
    originals = mmdet.from_detectron2(state)
    assert source in originals
    _, mapped, _ = mmdet.to_detectron2(originals)
    assert mapped[source] == target


@pytest.mark.parametrize(
    "kind, backbone",
    [(kind, "regnet") for kind in KINDS]
    + [("mask_rcnn", "deformable"), ("faster_rcnn", "resnext"), ("retinanet", "resnet")],
)
def test_every_tensor_of_every_kind_is_mapped_one_to_one(kind, backbone):
    state = empty(model(kind, backbone, num_classes=3).state_dict())
    originals = mmdet.from_detectron2(state)
    assert len(originals) == len(state)
    back, mapped, dropped = mmdet.to_detectron2(originals)
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in state.items()}
    assert set(mapped) == set(originals) and not dropped
    # A name has a number for each stage and block of the original, and no spelling of ours.
    assert not any(
        re.search(r"(^|\.)(s\d\.b|res\d|stem|bottom_up|fpn_lateral|fpn_output)", name)
        for name in originals
    )
    source, found = convert_state(originals)
    assert source == "mmdet" and not found.backbone
    archs = {"resnet": "r50", "resnext": "x101_32x4d"}
    assert found.arch == archs.get(backbone, "RegNetX-400MF")
    assert found.shapes == {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_retinanets_anchors_are_reordered():
    """Of every ratio MMDetection has three scales, and Detectron2 of every scale three ratios."""
    names = ("ratio 0.5", "ratio 1", "ratio 2"), ("scale 1", "scale 1.26", "scale 1.59")
    channels = {pair: 10 * index for index, pair in enumerate(itertools.product(*names))}
    state = mmdet.from_detectron2(empty(model("retinanet", num_classes=2).state_dict()))
    scores = [value + k for value in channels.values() for k in range(2)]
    deltas = [value + k for value in channels.values() for k in range(4)]
    state["bbox_head.retina_cls.bias"] = torch.tensor(scores, dtype=torch.float32)
    state["bbox_head.retina_reg.bias"] = torch.tensor(deltas, dtype=torch.float32)
    weight = torch.randn(18, 4, 3, 3)
    state["bbox_head.retina_cls.weight"] = weight
    converted, _, _ = mmdet.to_detectron2(state)
    order = [channels[ratio, scale] for scale in names[1] for ratio in names[0]]
    assert converted["head.cls_score.bias"].tolist() == [v + k for v in order for k in range(2)]
    assert converted["head.bbox_pred.bias"].tolist() == [v + k for v in order for k in range(4)]
    assert torch.equal(converted["head.cls_score.weight"][2:4], weight[6:8])  # ratio 1, scale 1
    back = mmdet.from_detectron2(converted)
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor), name


@pytest.mark.parametrize("name, groups", [("resnet50", 1), ("resnext50_32x4d", 32)])
def test_a_body_named_as_torchvisions_gives_the_same_features(name, groups, seed):
    original = torchvision.models.get_model(name, weights=None).eval()
    for norm in original.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
            norm.weight.data.uniform_(0.5, 1.0)
    state = original.state_dict()
    for dropped in ("fc.weight", "fc.bias"):
        del state[dropped]
    _, found = convert_state(state, source="mmdet")
    assert found.backbone and found.input_format == "RGB"
    assert set(found.dropped) == {n for n in state if n.endswith("num_batches_tracked")}
    body = build_resnet(50, num_groups=groups, width_per_group=64 if groups == 1 else 4).eval()
    body.load_state_dict(found.state)
    picture = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        x = original.maxpool(original.relu(original.bn1(original.conv1(picture))))
        features = body(picture)
        for stage, ours in zip(range(1, 5), ("res2", "res3", "res4", "res5")):
            x = getattr(original, f"layer{stage}")(x)
            torch.testing.assert_close(features[ours], x, rtol=1e-4, atol=1e-5 * x.abs().max())


def test_bodies_alone():
    """`open-mmlab://` files have plain names and a classifier, MMPretrain's a prefix."""
    state = mmdet.from_detectron2(empty(model("mask_rcnn").state_dict()))
    body = {n.removeprefix("backbone."): t for n, t in state.items() if n.startswith("backbone.")}
    for prefix, head in (("", "fc."), ("backbone.", "head.fc.")):
        named = {prefix + name: tensor for name, tensor in body.items()}
        named |= {head + "weight": torch.zeros(9, 384), head + "bias": torch.zeros(9)}
        named[prefix + "bn1.num_batches_tracked"] = torch.tensor(3)
        source, found = convert_state(named)
        assert source == "mmdet" and found.backbone and found.arch == "RegNetX-400MF"
        assert "s1.b1.f.a_bn.running_mean" in found.state and found.stem == "stem.conv.weight"
        assert found.input_format == "BGR"
        assert found.dropped == {
            head + "weight": "classifier head",
            head + "bias": "classifier head",
            prefix + "bn1.num_batches_tracked": "counter of training steps",
        }


@pytest.mark.parametrize(
    "meta, wanted",
    [
        ({}, "BGR"),
        ({"meta": {"config": "img_norm_cfg = dict(mean=[1.0], to_rgb=True)\n"}}, "RGB"),
        ({"meta": {"cfg": "data_preprocessor=dict(\n    bgr_to_rgb=False,\n"}}, "BGR"),
        ({"meta": {"cfg": {"model": {"data_preprocessor": {"bgr_to_rgb": True}}}}}, "RGB"),
        ({"meta": {"config": "to_rgb=True, to_rgb=False"}}, "BGR"),
        ({"meta": {"exp_name": "mask_rcnn_regnetx-4GF_fpn_mstrain-poly_3x_coco.py"}}, "RGB"),
        ({"meta": 3}, "BGR"),
    ],
)
def test_the_channel_order_is_read_from_the_config(meta, wanted):
    state = mmdet.from_detectron2(empty(model("faster_rcnn").state_dict()))
    _, found = convert_state(state, meta)
    assert found.input_format == wanted
    assert found.stem == "backbone.bottom_up.stem.conv.weight"
    assert found.pixel_std == (
        (57.375, 57.12, 58.395) if wanted == "BGR" else (58.395, 57.12, 57.375)
    )


@pytest.mark.slow
def test_the_channel_order_of_the_published_rows(fixtures):
    """All but one are told from detector and arch; that one's config has to tell."""
    kinds = dict(zip(("MaskRCNN", "FasterRCNN", "CascadeRCNN", "RetinaNet"), KINDS))
    unlike = []
    for row in json.loads((fixtures / "table_rows.json").read_text()):
        name = row["backbone"]
        body = (
            detectors.regnet(name, deform_stages=row["dcn_stages"])
            if name.startswith("regnet")
            else BODIES["resnext"]()
            if name.startswith("x101")
            else detectors.resnet(int(name[1:]))
        )
        with torch.device("meta"):
            built = instantiate(getattr(detectors, kinds[row["detector"]])(body))
        _, found = convert_state(mmdet.from_detectron2(empty(built.state_dict())))
        if found.input_format != row["input_format"]:
            unlike.append(row["mmdet_config"])
    assert unlike == ["regnet/mask-rcnn_regnetx-4GF_fpn_ms-poly-3x_coco"]


def test_what_is_wrong_is_named():
    state = mmdet.from_detectron2(empty(model("retinanet").state_dict()))
    broken = {**state, "bbox_head.retina_cls.bias": torch.zeros(721)}
    with pytest.raises(ValueError, match=r"shape \[721\].* 3 scales x 3 ratios"):
        convert_state(broken)
    with pytest.raises(ValueError, match=r"bbox_head\.extra"):
        convert_state({**state, "bbox_head.extra": torch.zeros(1)})
    del state["neck.fpn_convs.4.conv.bias"]
    with pytest.raises(ValueError, match=r"lacks .*backbone\.top_block\.p7\.bias"):
        convert_state(state)
    with pytest.raises(ValueError, match="head.strange.weight has no counterpart"):
        mmdet.from_detectron2({"head.strange.weight": torch.zeros(1)})
    shallow = mmdet.from_detectron2(empty(model("mask_rcnn", "resnet").state_dict()))
    shallow = {n: t for n, t in shallow.items() if not n.startswith("backbone.layer3.5")}
    with pytest.raises(ValueError, match="no known ResNet .* res4 has 5 blocks"):
        convert_state(shallow)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("mean=[0., 0., 0.], std=[255., 255., 255.], to_rgb=False", ((0.0,) * 3, (255.0,) * 3)),
        (
            "{'mean': [103.53, 116.28, 123.675], 'std': [1, 1, 1]}",
            ((103.53, 116.28, 123.675), (1.0,) * 3),
        ),
        ("mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395]", None),  # ImageNet's
        ("mean=[127.5, 127.5, 127.5],\n std=[1.0, 1.0, 1.0]", ((127.5,) * 3, (1.0,) * 3)),
        ("target_means=[0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0]", None),
        ("", None),
    ],
)
def test_statistics_of_the_config_text(config, expected):
    found = mmdet._statistics({"meta": {"config": config}})
    assert found == (expected and tuple(map(list, expected)))


@pytest.mark.parametrize(
    "meta",
    [
        {"dataset_meta": {"classes": ("cat", "dog")}},
        {"dataset_meta": {"CLASSES": ["cat", "dog"]}},
        {"CLASSES": ("cat", "dog")},
    ],
)
def test_names_of_classes(meta):
    assert mmdet.class_names({"meta": meta}) == ["cat", "dog"]
    assert mmdet.class_names({}) == []
