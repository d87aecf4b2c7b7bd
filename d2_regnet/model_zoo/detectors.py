"""The four detectors around any backbone, as LazyConfig nodes: `instantiate(mask_rcnn(...))`.

Each is the model of Detectron2's common configs with the numbers of MMDetection's RegNet tables,
and with the classes of `d2_regnet.modeling` where MMDetection's arithmetic differs. All of it may
be overridden in the node that is returned.
"""

import copy
from importlib import resources

from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from detectron2.modeling.box_regression import Box2BoxTransform
from omegaconf import DictConfig

from d2_regnet.archs import get_arch
from d2_regnet.modeling.backbone.fpn import LastLevelP6P7NoReLU
from d2_regnet.modeling.backbone.regnet import build_regnet
from d2_regnet.modeling.backbone.resnet import build_resnet
from d2_regnet.modeling.mmdet.cascade import CascadeMaskROIHeads
from d2_regnet.modeling.mmdet.matcher import MaxIoUMatcher
from d2_regnet.modeling.mmdet.retinanet import MMDetRetinaNet
from d2_regnet.modeling.mmdet.roi_heads import MMDetROIHeads
from d2_regnet.modeling.mmdet.rpn import MMDetRPN
from d2_regnet.utils.imagenet import pixel_statistics

# IoU of each cascade stage, and what its box deltas are divided by: MMDetection's `target_stds`.
_CASCADE = [
    (0.5, (0.1, 0.1, 0.2, 0.2)),
    (0.6, (0.05, 0.05, 0.1, 0.1)),
    (0.7, (0.033, 0.033, 0.067, 0.067)),
]
# What Detectron2's predictors of boxes have by default, so that a config shows it.
_PREDICTOR = dict(test_nms_thresh=0.5, test_topk_per_image=100)


def regnet(arch, *, norm="EvalBN", freeze_at=2, deform_stages=(), **options) -> DictConfig:
    """A RegNet backbone; arguments are those of `modeling.build_regnet`."""
    return L(build_regnet)(
        arch=arch,
        norm=norm,
        freeze_at=freeze_at,
        deform_stages=list(deform_stages),
        out_features=["s1", "s2", "s3", "s4"],
        **options,
    )


def resnet(depth, *, norm="EvalBN", freeze_at=2, **options) -> DictConfig:
    """A ResNet or ResNeXt backbone; arguments are those of `modeling.resnet.build_resnet`."""
    return L(build_resnet)(
        depth=depth,
        norm=norm,
        freeze_at=freeze_at,
        out_features=["res2", "res3", "res4", "res5"],
        **options,
    )


def mask_rcnn(bottom_up, *, num_classes: int = 80, input_format: str = "BGR") -> DictConfig:
    """Mask R-CNN with FPN.

    Args:
        bottom_up: the backbone's node, from `regnet` or `resnet`.
        num_classes: classes of objects, 1 or more.
        input_format: "BGR" or "RGB", the order of the channels that the model is given; decides
            `pixel_mean` and `pixel_std`.

    Raises:
        ValueError: another input format.
    """
    model = _rcnn("mask_rcnn_fpn", bottom_up, num_classes, input_format)
    model.roi_heads.update(
        _target_=MMDetROIHeads,
        proposal_matcher=L(MaxIoUMatcher)(
            thresholds=[0.5], labels=[0, 1], min_low_quality_iou=0.5, objects_appended=True
        ),
    )
    model.roi_heads.box_predictor.update(smooth_l1_beta=0.0, **_PREDICTOR)
    return model


def faster_rcnn(bottom_up, *, num_classes: int = 80, input_format: str = "BGR") -> DictConfig:
    """Faster R-CNN with FPN; arguments are those of `mask_rcnn`."""
    model = mask_rcnn(bottom_up, num_classes=num_classes, input_format=input_format)
    return without_masks(model)


def cascade_mask_rcnn(bottom_up, *, num_classes: int = 80, input_format: str = "BGR") -> DictConfig:
    """Cascade Mask R-CNN with FPN, three stages; arguments are those of `mask_rcnn`."""
    model = _rcnn("cascade_rcnn", bottom_up, num_classes, input_format)
    model.proposal_generator.update(
        post_nms_topk=(2000, 1000), anchor_boundary_thresh=0.0, smooth_l1_beta=1 / 9
    )
    heads = model.roi_heads
    mask_head = heads.pop("mask_head")
    mask_head.num_classes = "${...num_classes}"
    heads.update(
        _target_=CascadeMaskROIHeads,
        proposal_matchers=[
            L(MaxIoUMatcher)(thresholds=[iou], labels=[0, 1], objects_appended=True)
            for iou, _ in _CASCADE
        ],
        mask_heads=[mask_head] * len(_CASCADE),
        stage_loss_weights=[1.0, 0.5, 0.25],
    )
    for predictor, (_, stds) in zip(heads.box_predictors, _CASCADE):
        deltas = L(Box2BoxTransform)(weights=[1 / std for std in stds])
        predictor.update(box2box_transform=deltas, smooth_l1_beta=1.0, **_PREDICTOR)
    return model


def retinanet(bottom_up, *, num_classes: int = 80, input_format: str = "BGR") -> DictConfig:
    """RetinaNet with FPN; arguments are those of `mask_rcnn`."""
    bottom_up = copy.deepcopy(bottom_up)
    bottom_up.out_features = bottom_up.out_features[1:]  # the levels begin at p3
    last = bottom_up.out_features[-1]
    model = _model("retinanet", bottom_up, num_classes, input_format)
    model.backbone.top_block = L(LastLevelP6P7NoReLU)(
        in_channels=L(last_width)(arch="${...bottom_up.arch}") if last == "s4" else 2048,
        out_channels="${..out_channels}",
        in_feature=last,
    )
    model.update(
        _target_=MMDetRetinaNet,
        anchor_matcher=_matcher([0.4, 0.5], 0.0),
        smooth_l1_beta=0.0,
        test_score_thresh=0.05,
        test_topk_candidates=1000,
        test_nms_thresh=0.5,
        max_detections_per_image=100,
    )
    return model


def last_width(arch) -> int:
    """Channels of a RegNet's last stage."""
    return get_arch(arch).stage_widths[-1]


def detectron2_model(name: str) -> DictConfig:
    """A model of Detectron2's common configs, by its file."""
    # Not `detectron2.model_zoo`: it imports pkg_resources, which warns.
    folder = resources.files("detectron2") / "model_zoo" / "configs" / "common" / "models"
    return LazyConfig.load(str(folder / f"{name}.py")).model  # pyright: ignore


def without_masks(model: DictConfig) -> DictConfig:
    """The same model, changed to predict boxes alone."""
    for key in ("mask_in_features", "mask_pooler", "mask_head"):
        del model.roi_heads[key]
    return model


def _rcnn(name, bottom_up, num_classes, input_format) -> DictConfig:
    model = _model(name, bottom_up, num_classes, input_format)
    model.proposal_generator.update(
        _target_=MMDetRPN,
        anchor_matcher=_matcher([0.3, 0.7], 0.3),
        anchor_boundary_thresh=-1.0,
        smooth_l1_beta=0.0,
    )
    return model


def _model(name, bottom_up, num_classes, input_format) -> DictConfig:
    mean, std = pixel_statistics(input_format)
    model = detectron2_model(name)
    model.backbone.update(bottom_up=bottom_up, in_features="${.bottom_up.out_features}")
    model.update(pixel_mean=[*mean], pixel_std=[*std], input_format=input_format)
    (model if name == "retinanet" else model.roi_heads).num_classes = num_classes
    return model


def _matcher(thresholds, min_low_quality_iou) -> DictConfig:
    return L(MaxIoUMatcher)(
        thresholds=thresholds, labels=[0, -1, 1], min_low_quality_iou=min_low_quality_iou
    )
