"""One backbone as every library builds it, with the same weights."""

import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator

import torch
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem
from torch import nn
from torchvision.models import get_model, list_models

from d2_regnet.archs import arch_name, get_arch, list_archs
from d2_regnet.checkpoint.sources import timm as timm_source
from d2_regnet.checkpoint.sources import torchvision as torchvision_source
from d2_regnet.inference.optimize import fold_norms
from d2_regnet.modeling import build_regnet
from d2_regnet.utils import flops

STAGES = ["s1", "s2", "s3", "s4"]
_LAST_NORMS = ("c_bn", "conv3.norm")  # of a block, RegNet's and ResNet's
_ADDED = 0.2
LIBRARIES = {"torchvision": torchvision_source, "timm": timm_source}


def spelled(arch: str) -> str:
    """A RegNet's published name, or a torchvision EfficientNet's.

    Raises:
        ValueError: there is none of that name.
    """
    if not arch.lower().startswith("efficientnet"):
        return arch_name(arch)
    known = list_models(include="efficientnet*")
    if arch.lower() not in known:
        raise ValueError(f"unknown EfficientNet {arch!r}: torchvision has {', '.join(known)}")
    return arch.lower()


def name_in(library: str, arch: str) -> str | None:
    """What torchvision or timm calls an arch; None if it has none of that shape.

    Raises:
        ValueError: the library is not installed.
    """
    if importlib.util.find_spec(library) is None:
        raise ValueError(f"{library} is not installed: pip install {library}, or leave it out")
    if arch.startswith("efficientnet"):
        return arch if library == "torchvision" else None
    kind, size, unit = re.fullmatch(r"RegNet([XY])-([\d.]+)(MF|GF)", arch).groups()
    if library == "timm":
        hundreds = round(float(size) * (10 if unit == "GF" else 0.01))
        name = f"regnet{kind.lower()}_{hundreds:03d}"
        import timm

        return name if name in timm.list_models("regnet[xy]_*") else None
    number = size.removesuffix(".0").replace(".", "_")
    name = f"regnet_{kind}_{number}{unit}".lower()
    is_wider = f"{arch}-torchvision" in list_archs(others=True)
    return name if name in list_models(include="regnet*") and not is_wider else None


def build(peer: str, arch: str) -> nn.Module:
    """An untrained backbone of one peer, from (N, 3, H, W) to its last feature (N, C, H/32, W/32).

    Args:
        peer: ours, unfused and checkpointed (EvalBN, as the recipes train), detectron2 (FrozenBN,
            as its configs build it), torchvision or timm (BN).
        arch: a name from `spelled`, which the peer has.
    """
    if peer == "torchvision":
        return _Last(get_model(name_in(peer, arch)))
    if peer == "timm":
        import timm

        return _Last(timm.create_model(name_in(peer, arch), num_classes=0))
    if peer == "detectron2":
        return _Last(detectron2_backbone(arch))
    options = {"norm": "EvalBN", "fuse_conv_norm": peer != "unfused"}
    if peer == "checkpointed":
        options["activation_checkpoint"] = STAGES
    return _Last(build_regnet(arch, **options))


def variants(peers: Iterable[str], dtypes: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Label, peer and dtype of each competitor: ours in every dtype, the others in float32."""
    for peer in peers:
        for dtype in dtypes if peer == "ours" else ["float32"]:
            yield (peer if dtype == "float32" else f"{peer} {dtype}"), peer, dtype


def detectron2_backbone(arch: str, **options) -> RegNet:
    """Detectron2's own RegNet of a published arch, with all stages as outputs."""
    found = get_arch(arch)
    keys = ("stem_width", "depth", "w_a", "w_0", "w_m", "group_width", "se_ratio")
    return RegNet(
        stem_class=SimpleStem,
        block_class=ResBottleneckBlock,
        **{key: getattr(found, key) for key in keys},
        **{"norm": "FrozenBN", "out_features": STAGES, **options},
    )


class _Last(nn.Module):
    """The last feature of anyone's backbone."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        if hasattr(backbone, "trunk_output"):  # torchvision's RegNet
            self.features = nn.Sequential(backbone.stem, backbone.trunk_output)
        else:
            self.features = getattr(backbone, "forward_features", None)  # timm's
            if self.features is None:  # torchvision's EfficientNet, or Detectron2's kind
                self.features = getattr(backbone, "features", backbone)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found = self.features(image)
        return found["s4"] if isinstance(found, dict) else found


def random_state(arch: str) -> dict[str, torch.Tensor]:
    """Random weights for Detectron2's names, whose norms have the statistics of an image of noise.

    Without them the features of a deep backbone would grow beyond all bounds.
    """
    backbone = build_regnet(arch, norm="BN", fuse_conv_norm=False)
    image = torch.randn(1, 3, 256, 256)
    measure_statistics(backbone, lambda: backbone(image))
    return backbone.state_dict()


@torch.no_grad()
def measure_statistics(model: nn.Module, forward: Callable[[], object]) -> None:
    """Gives the norms of a backbone the statistics of one forward pass.

    What a block adds to its input becomes small, as in trained backbones: of random
    weights, rounding would else grow from block to block, a thousandfold in deep ones.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean of all passes, of which there is one
            if name.endswith(_LAST_NORMS):
                nn.init.constant_(module.weight, _ADDED)
    model.train()
    forward()


def equal_weights(peer: str, backbone: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Loads a state with Detectron2's names into any peer's backbone.

    For torchvision and timm the converter of their checkpoints, which maps their names to ours, is
    read backwards.
    """
    target = backbone.backbone
    if peer in LIBRARIES:
        own = target.state_dict()
        mapped = LIBRARIES[peer].convert(own, {}).mapped
        state = {theirs: state[ours] for theirs, ours in mapped.items() if ours in state}
        missing = target.load_state_dict(state, strict=False).missing_keys
        lost = [name for name in missing if name in mapped]
        if lost:
            raise RuntimeError(f"{peer}: weights without a counterpart: {', '.join(lost)}")
    else:
        wanted = target.state_dict()
        target.load_state_dict({name: state[name] for name in wanted})


def for_inference(backbone: nn.Module, dtype: torch.dtype, compile: bool = False) -> nn.Module:
    """Our backbone as `optimize_for_inference` prepares it inside a detector."""
    backbone = backbone.eval().requires_grad_(False)
    fold_norms(backbone)
    backbone = backbone.to(dtype=dtype, memory_format=torch.channels_last)
    if compile:
        backbone.compile(dynamic=True)
    return backbone


def multiply_adds(arch: str, size: tuple[int, int]) -> int:
    """Of convolutions and linear layers, for one image of (height, width)."""
    peer = "torchvision" if arch.startswith("efficientnet") else "unfused"
    with torch.device("meta"):
        backbone = build(peer, arch).eval()
        image = torch.zeros(1, 3, *size)
        return flops.multiply_adds(backbone, image)
