"""The RegNet backbone, its norms and FPN, and heads with MMDetection's arithmetic, as modules of
Detectron2; importing them registers them for yacs configs."""

from .backbone.deform import ModulatedDeformConv
from .backbone.fpn import LastLevelP6P7NoReLU
from .backbone.norm import EvalBN
from .backbone.regnet import RegNet, build_regnet
from .backbone.resnet import build_resnet
from .mmdet.cascade import CascadeMaskROIHeads
from .mmdet.matcher import MaxIoUMatcher
from .mmdet.retinanet import MMDetRetinaNet
from .mmdet.roi_heads import MMDetROIHeads
from .mmdet.rpn import MMDetRPN
from .partial_masks import PartialMaskHead

__all__ = [
    "CascadeMaskROIHeads",
    "EvalBN",
    "LastLevelP6P7NoReLU",
    "MMDetROIHeads",
    "MMDetRPN",
    "MMDetRetinaNet",
    "MaxIoUMatcher",
    "ModulatedDeformConv",
    "PartialMaskHead",
    "RegNet",
    "build_regnet",
    "build_resnet",
]
