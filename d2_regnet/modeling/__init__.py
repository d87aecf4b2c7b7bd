"""The RegNet body, its norms and its FPN, as Detectron2 modules."""

from d2_regnet.modeling.deform import ModulatedDeformConv
from d2_regnet.modeling.fpn import LastLevelP6P7NoReLU
from d2_regnet.modeling.norm import EvalBN
from d2_regnet.modeling.regnet import RegNet, build_regnet

__all__ = ["EvalBN", "LastLevelP6P7NoReLU", "ModulatedDeformConv", "RegNet", "build_regnet"]
