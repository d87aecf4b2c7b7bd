"""The four detectors around any backbone, as LazyConfig nodes: `instantiate(mask_rcnn(...))`.

Every number is that of MMDetection's RegNet tables, and every class is Detectron2's own but where
its arithmetic differs from MMDetection's (the classes of `d2_regnet.modeling`). All of it may be
overridden in the node that is returned.
"""

import copy

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
)
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

_CHANNELS = 256
_LEVELS = ["p2", "p3", "p4", "p5"]
_SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
# IoU of each cascade stage, and what its box deltas are divided by: MMDetection's `target_stds`.
_CASCADE = [
    (0.5, (0.1, 0.1, 0.2, 0.2)),
    (0.6, (0.05, 0.05, 0.1, 0.1)),
    (0.7, (0.033, 0.033, 0.067, 0.067)),
]


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


def faster_rcnn(bottom_up, *, num_classes: int = 80, input_format: str = "BGR") -> DictConfig:
    """Faster R-CNN with FPN.

    Args:
        bottom_up: the backbone's node, from `regnet` or `resnet`.
        num_classes: classes of objects, 1 or more.
        input_format: "BGR" or "RGB", the order of the channels that the model is given; decides
            `pixel_mean` and `pixel_std`.

    Raises:
        ValueError: another input format.
    """
    return _rcnn(
        bottom_up,
        L(MMDetROIHeads)(
            num_classes=num_classes,
            batch_size_per_image=512,
            positive_fraction=0.25,
            proposal_matcher=L(MaxIoUMatcher)(
                thresholds=[0.5], labels=[0, 1], min_low_quality_iou=0.5, objects_appended=True
            ),
            box_in_features=_LEVELS,
            box_pooler=_pooler(7),
            box_head=_box_head(),
            box_predictor=_box_predictor(_CASCADE[0][1], num_classes="${..num_classes}"),
        ),
        input_format,
    )


def mask_rcnn(bottom_up, *, num_classes: int = 80, input_format: str = "BGR") -> DictConfig:
    """Mask R-CNN with FPN; arguments are those of `faster_rcnn`."""
    model = faster_rcnn(bottom_up, num_classes=num_classes, input_format=input_format)
    model.roi_heads.update(
        mask_in_features=_LEVELS,
        mask_pooler=_pooler(14),
        mask_head=_mask_head(num_classes="${..num_classes}"),
    )
    return model


def cascade_mask_rcnn(bottom_up, *, num_classes: int = 80, input_format: str = "BGR") -> DictConfig:
    """Cascade Mask R-CNN with FPN, three stages; arguments are those of `faster_rcnn`."""
    model = _rcnn(
        bottom_up,
        L(CascadeMaskROIHeads)(
            num_classes=num_classes,
            batch_size_per_image=512,
            positive_fraction=0.25,
            proposal_matchers=[
                L(MaxIoUMatcher)(thresholds=[iou], labels=[0, 1], objects_appended=True)
                for iou, _ in _CASCADE
            ],
            box_in_features=_LEVELS,
            box_pooler=_pooler(7),
            box_heads=[_box_head() for _ in _CASCADE],
            box_predictors=[
                _box_predictor(
                    stds,
                    num_classes="${...num_classes}",
                    cls_agnostic_bbox_reg=True,
                    smooth_l1_beta=1.0,
                )
                for _, stds in _CASCADE
            ],
            mask_in_features=_LEVELS,
            mask_pooler=_pooler(14),
            mask_heads=[_mask_head(num_classes="${...num_classes}") for _ in _CASCADE],
            stage_loss_weights=[1.0, 0.5, 0.25],
        ),
        input_format,
    )
    model.proposal_generator.update(
        post_nms_topk=(2000, 1000), anchor_boundary_thresh=0.0, smooth_l1_beta=1 / 9
    )
    return model


def retinanet(bottom_up, *, num_classes: int = 80, input_format: str = "BGR") -> DictConfig:
    """RetinaNet with FPN; arguments are those of `faster_rcnn`."""
    bottom_up = copy.deepcopy(bottom_up)
    bottom_up.out_features = bottom_up.out_features[1:]  # the levels begin at p3
    last_stage = bottom_up.out_features[-1]
    in_channels = L(last_width)(arch="${...bottom_up.arch}") if last_stage == "s4" else 2048
    return L(MMDetRetinaNet)(
        backbone=_fpn(
            bottom_up,
            L(LastLevelP6P7NoReLU)(
                in_channels=in_channels,
                out_channels="${..out_channels}",
                in_feature=last_stage,
            ),
        ),
        head=L(RetinaNetHead)(
            input_shape=[ShapeSpec(channels=_CHANNELS)] * 5,
            num_classes="${..num_classes}",
            conv_dims=[_CHANNELS] * 4,
            prior_prob=0.01,
            num_anchors=9,
        ),
        anchor_generator=_anchors(
            [[4 * stride * 2 ** (i / 3) for i in range(3)] for stride in (8, 16, 32, 64, 128)],
            [8, 16, 32, 64, 128],
        ),
        box2box_transform=_deltas((1.0, 1.0, 1.0, 1.0)),
        anchor_matcher=L(MaxIoUMatcher)(
            thresholds=[0.4, 0.5], labels=[0, -1, 1], min_low_quality_iou=0.0
        ),
        num_classes=num_classes,
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        focal_loss_alpha=0.25,
        focal_loss_gamma=2.0,
        smooth_l1_beta=0.0,
        test_score_thresh=0.05,
        test_topk_candidates=1000,
        test_nms_thresh=0.5,
        max_detections_per_image=100,
        **_pixels(input_format),
    )


def last_width(arch) -> int:
    """Channels of a RegNet's last stage."""
    return get_arch(arch).stage_widths[-1]


def _rcnn(bottom_up, roi_heads, input_format):
    return L(GeneralizedRCNN)(
        backbone=_fpn(bottom_up, L(LastLevelMaxPool)()),
        proposal_generator=L(MMDetRPN)(
            in_features=[*_LEVELS, "p6"],
            head=L(StandardRPNHead)(in_channels=_CHANNELS, num_anchors=3),
            anchor_generator=_anchors([[32], [64], [128], [256], [512]], [4, 8, 16, 32, 64]),
            anchor_matcher=L(MaxIoUMatcher)(
                thresholds=[0.3, 0.7], labels=[0, -1, 1], min_low_quality_iou=0.3
            ),
            box2box_transform=_deltas((1.0, 1.0, 1.0, 1.0)),
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_topk=(2000, 1000),
            post_nms_topk=(1000, 1000),
            nms_thresh=0.7,
            anchor_boundary_thresh=-1.0,
            smooth_l1_beta=0.0,
        ),
        roi_heads=roi_heads,
        **_pixels(input_format),
    )


def _pixels(input_format):
    mean, std = pixel_statistics(input_format)
    return dict(pixel_mean=list(mean), pixel_std=list(std), input_format=input_format)


def _fpn(bottom_up, top_block):
    return L(FPN)(
        bottom_up=bottom_up,
        in_features="${.bottom_up.out_features}",
        out_channels=_CHANNELS,
        top_block=top_block,
    )


def _anchors(sizes, strides):
    return L(DefaultAnchorGenerator)(
        sizes=sizes, aspect_ratios=[0.5, 1.0, 2.0], strides=strides, offset=0.0
    )


def _deltas(stds):
    return L(Box2BoxTransform)(weights=[1 / std for std in stds])


def _pooler(side):
    return L(ROIPooler)(
        output_size=side, scales=_SCALES, sampling_ratio=0, pooler_type="ROIAlignV2"
    )


def _box_head():
    shape = ShapeSpec(channels=_CHANNELS, height=7, width=7)
    return L(FastRCNNConvFCHead)(input_shape=shape, conv_dims=[], fc_dims=[1024, 1024])


def _box_predictor(stds, **options):
    return L(FastRCNNOutputLayers)(
        input_shape=ShapeSpec(channels=1024),
        box2box_transform=_deltas(stds),
        test_score_thresh=0.05,
        test_nms_thresh=0.5,
        test_topk_per_image=100,
        **{"smooth_l1_beta": 0.0, **options},
    )


def _mask_head(**options):
    shape = ShapeSpec(channels=_CHANNELS, height=14, width=14)
    return L(MaskRCNNConvUpsampleHead)(input_shape=shape, conv_dims=[_CHANNELS] * 5, **options)
