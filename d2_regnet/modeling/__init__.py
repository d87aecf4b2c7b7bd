"""The RegNet body, its norms and its FPN, and heads with MMDetection's arithmetic, as Detectron2
modules; importing them registers them for yacs configs."""

from d2_regnet.modeling.cascade import CascadeMaskROIHeads
from d2_regnet.modeling.deform import ModulatedDeformConv
from d2_regnet.modeling.fpn import LastLevelP6P7NoReLU
from d2_regnet.modeling.matcher import MaxIoUMatcher
from d2_regnet.modeling.norm import EvalBN
from d2_regnet.modeling.regnet import RegNet, build_regnet
from d2_regnet.modeling.resnet import build_resnet
from d2_regnet.modeling.retinanet import MMDetRetinaNet
from d2_regnet.modeling.roi_heads import MMDetROIHeads
from d2_regnet.modeling.rpn import MMDetRPN

__all__ = [
    "CascadeMaskROIHeads",
    "EvalBN",
    "LastLevelP6P7NoReLU",
    "MMDetROIHeads",
    "MMDetRPN",
    "MMDetRetinaNet",
    "MaxIoUMatcher",
    "ModulatedDeformConv",
    "RegNet",
    "build_regnet",
    "build_resnet",
]
