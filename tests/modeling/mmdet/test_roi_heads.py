"""MMDetROIHeads: built from a yacs config, its proposals matched as MMDetection matches them."""

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import build_roi_heads

from d2_regnet import add_regnet_config
from d2_regnet.modeling import MaxIoUMatcher, MMDetROIHeads


def test_yacs():
    cfg = get_cfg()
    add_regnet_config(cfg)
    cfg.MODEL.ROI_HEADS.NAME = "MMDetROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 1, 8
    cfg.MODEL.ROI_HEADS.MIN_LOW_QUALITY_IOU = 0.25
    shapes = {name: ShapeSpec(channels=4, stride=stride) for name, stride in (("p2", 4), ("p3", 8))}
    heads = build_roi_heads(cfg, shapes)
    assert isinstance(heads, MMDetROIHeads)
    matcher = heads.proposal_matcher
    assert isinstance(matcher, MaxIoUMatcher) and matcher.objects_appended
    assert matcher.min_low_quality_iou == 0.25
