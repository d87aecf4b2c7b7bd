"""The FPN around a RegNet backbone: RetinaNet's top block and the builders for yacs configs."""

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7

from d2_regnet.config import regnet_arguments, regnet_key

from .regnet import RegNet, build_regnet


class LastLevelP6P7NoReLU(LastLevelP6P7):
    """RetinaNet's extra levels P6 and P7 with no ReLU between them, as MMDetection computes them.

    Args:
        in_channels: channels of `in_feature`.
        out_channels: channels of P6 and P7.
        in_feature: the level that P6 is computed from; a RegNet's last stage is `s4`.
    """

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "s4"):
        super().__init__(in_channels, out_channels, in_feature)

    def forward(self, x):
        """`in_feature` (N, C, H, W) to [P6 at half its size, P7 at a quarter]."""
        p6 = self.p6(x)
        return [p6, self.p7(p6)]


@BACKBONE_REGISTRY.register()
def build_regnet_backbone(cfg, input_shape: ShapeSpec) -> RegNet:
    """The backbone that `cfg.MODEL.REGNETS` describes (see `config.add_regnet_config`)."""
    arguments = regnet_arguments(cfg)
    try:
        return build_regnet(in_channels=input_shape.channels, **arguments)
    except ValueError as error:
        raise ValueError(f"{regnet_key(str(error))}: {error}") from error


@BACKBONE_REGISTRY.register()
def build_regnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """RegNet-FPN for Mask, Faster and Cascade R-CNN: p2 to p5 from s1 to s4, and p6 pooled."""
    return pooled_fpn(cfg, build_regnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_retinanet_regnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """RegNet-FPN for RetinaNet: p3 to p5 from s2 to s4, and p6 and p7 from the last stage."""
    return retinanet_fpn(cfg, build_regnet_backbone(cfg, input_shape))


def pooled_fpn(cfg, bottom_up: Backbone) -> FPN:
    """The FPN that `cfg.MODEL.FPN` describes around any backbone, p6 pooled from p5."""
    return _fpn(cfg, bottom_up, LastLevelMaxPool())


def retinanet_fpn(cfg, bottom_up: Backbone) -> FPN:
    """The FPN that `cfg.MODEL.FPN` describes around any backbone, p6 and p7 from its last stage."""
    last, shape = list(bottom_up.output_shape().items())[-1]
    top_block = LastLevelP6P7 if cfg.MODEL.FPN.P7_RELU else LastLevelP6P7NoReLU
    return _fpn(cfg, bottom_up, top_block(shape.channels, cfg.MODEL.FPN.OUT_CHANNELS, last))


def _fpn(cfg, bottom_up, top_block) -> FPN:
    known = bottom_up.output_shape()
    for name in cfg.MODEL.FPN.IN_FEATURES:
        if name not in known:
            raise ValueError(
                f"MODEL.FPN.IN_FEATURES names {name!r}, which the backbone's OUT_FEATURES "
                f"({', '.join(known)}) do not return"
            )
    if not cfg.MODEL.FPN.IN_FEATURES:
        raise ValueError("MODEL.FPN.IN_FEATURES is empty: use ['s1', 's2', 's3', 's4']")
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
