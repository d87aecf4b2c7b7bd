"""ResNet and ResNeXt backbones, for the baselines that the RegNets are compared with."""

from collections.abc import Callable, Iterable

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock

from .fpn import pooled_fpn, retinanet_fpn
from .norm import resolve_norm

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def build_resnet(
    depth: int,
    *,
    in_channels: int = 3,
    num_groups: int = 1,
    width_per_group: int = 64,
    norm: str | Callable = "EvalBN",
    freeze_at: int = 0,
    out_features: Iterable[str] = ("res2", "res3", "res4", "res5"),
) -> ResNet:
    """Builds Detectron2's ResNet with the stride in the 3x3 convolution and any norm.

    That is torchvision's and MMDetection's ("pytorch style") ResNet, and with `num_groups` and
    `width_per_group` their ResNeXt, neither of which Detectron2's `make_default_stages` makes.

    Args:
        depth: 50, 101 or 152 layers.
        in_channels: channels of the input image.
        num_groups: groups of the 3x3 convolutions; 32 for ResNeXt-32x4d.
        width_per_group: channels of each group in res2; 4 for ResNeXt-32x4d.
        norm: what Detectron2's `get_norm` takes, or "EvalBN" (see `modeling.EvalBN`).
        freeze_at: how many stages are frozen: 1 is the stem, 2 the stem and `res2`, and so on.
        out_features: the stages whose output is returned.

    Raises:
        ValueError: an unknown depth or norm.
    """
    if depth not in _BLOCKS:
        raise ValueError(f"ResNet depth must be one of {', '.join(map(str, _BLOCKS))}, not {depth}")
    norm = resolve_norm(norm)
    stages, width = [], 64
    for index, blocks in enumerate(_BLOCKS[depth]):
        stages.append(
            ResNet.make_stage(
                BottleneckBlock,
                blocks,
                stride_per_block=[1 if index == 0 else 2] + [1] * (blocks - 1),
                in_channels=width,
                out_channels=256 * 2**index,
                bottleneck_channels=num_groups * width_per_group * 2**index,
                num_groups=num_groups,
                norm=norm,
                stride_in_1x1=False,
            )
        )
        width = 256 * 2**index
    stem = BasicStem(in_channels=in_channels, out_channels=64, norm=norm)
    return ResNet(stem, stages, out_features=list(out_features), freeze_at=freeze_at)


@BACKBONE_REGISTRY.register()
def build_baseline_resnet_backbone(cfg, input_shape: ShapeSpec) -> ResNet:
    """What DEPTH, NUM_GROUPS, WIDTH_PER_GROUP, NORM, OUT_FEATURES of `MODEL.RESNETS` describe.

    Unlike Detectron2's `build_resnet_backbone` it knows the norm EvalBN.
    """
    node = cfg.MODEL.RESNETS
    return build_resnet(
        node.DEPTH,
        in_channels=input_shape.channels,
        num_groups=node.NUM_GROUPS,
        width_per_group=node.WIDTH_PER_GROUP,
        norm=node.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        out_features=node.OUT_FEATURES,
    )


@BACKBONE_REGISTRY.register()
def build_baseline_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """ResNet-FPN for Mask, Faster and Cascade R-CNN."""
    return pooled_fpn(cfg, build_baseline_resnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_retinanet_baseline_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """ResNet-FPN for RetinaNet."""
    return retinanet_fpn(cfg, build_baseline_resnet_backbone(cfg, input_shape))
