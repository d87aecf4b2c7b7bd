"""`backbone`: RegNet backbones, and EfficientNets beside them, forward or in a training step."""

import functools
from argparse import Namespace

import torch

from d2_regnet import model_zoo

from .backbones import (
    LIBRARIES,
    build,
    equal_weights,
    for_inference,
    multiply_adds,
    name_in,
    random_state,
    spelled,
    variants,
)
from .saved import saved_bytes
from .timing import compared, figures, take_turns

PEERS = ("ours", "unfused", "checkpointed", "detectron2", "torchvision", "timm")


def plan(archs: list[str], peers: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The peers that have each arch, and a line about each that has not.

    Args:
        archs: names; one of an EfficientNet or a RegNet may end in @SIDE, of its square images.
        peers: of `PEERS`; an EfficientNet is always torchvision's.

    Raises:
        ValueError: an unknown arch, or a library that is not installed.
    """
    groups, skipped = {}, []
    for given in archs:
        name, _, side = given.partition("@")
        arch = spelled(name)
        if "@" in given and not (side.isdecimal() and int(side) >= 64):
            raise ValueError(f"{given}: behind the @ is the side of an image, 64 or more")
        is_regnet = not arch.startswith("efficientnet")
        wanted = peers if is_regnet else ["torchvision"]
        found = [peer for peer in wanted if peer not in LIBRARIES or name_in(peer, arch)]
        skipped += [f"{peer} has no {arch}" for peer in wanted if peer not in found]
        if found:
            groups[f"{arch}@{side}" if side else arch] = found
    return groups, skipped


def measure(arch: str, peers: list[str], args: Namespace) -> list[dict]:
    """Times one arch; each result has the median in `seconds`, and how far the output is from that
    of our own unfused float32 backbone."""
    arch, _, side = arch.partition("@")
    size = (int(side), int(side)) if side else tuple(args.size)
    torch.manual_seed(0)
    image = torch.randn(args.batch, 3, *size)
    state = None if arch.startswith("efficientnet") else random_state(arch)
    if state is not None:
        with torch.no_grad():
            expected = _loaded("unfused", arch, state).eval()(image)
    image = image.to(args.device)
    runs, results = {}, {}
    for label, peer, dtype in variants(peers, ["float32"] if args.train else args.dtypes):
        backbone = _loaded(peer, arch, state).to(args.device).train(args.train)
        result = {"arch": arch, "peer": label, "dtype": dtype, "size": f"{size[0]}x{size[1]}"}
        results[label] = result
        if args.train:
            forward = functools.partial(backbone, image)
            runs[label] = _training_step(backbone, image)
            result["saved_bytes"] = saved_bytes(forward, backbone.parameters())
        else:
            forward = runs[label] = _forward(backbone, image, dtype, args.compile, peer == "ours")
        # In training, BN computes with other statistics than the others.
        if state is not None and not (args.train and peer in LIBRARIES):
            result["difference"] = _difference(forward().detach().float().cpu(), expected)
    timings = take_turns(runs, args, arch)
    flops = multiply_adds(arch, size) * (3 if args.train else 1)
    for label, timing in timings.items():
        results[label] |= figures(timing, args.batch, flops) | {"ap": published_ap(arch)}
    return compared(results)


def _loaded(peer: str, arch: str, state: dict | None) -> torch.nn.Module:
    backbone = build(peer, arch)
    if state is not None:
        equal_weights(peer, backbone, state)
    return backbone


def published_ap(arch: str) -> float | None:
    """The box AP of the backbone's Mask R-CNN at 3x, where MMDetection published one."""
    row = model_zoo.rows().get(f"mask_rcnn_{arch.lower().replace('-', '_')}_fpn_3x")
    return row and row["box_ap"]


def _forward(backbone, image, dtype, compile, is_ours):
    kind = getattr(torch, dtype)
    if is_ours:
        backbone = for_inference(backbone, kind, compile)
        # What arrives is what any peer gets: float32, channels first.
        return torch.no_grad()(
            lambda: backbone(image.to(dtype=kind, memory_format=torch.channels_last))
        )
    return torch.no_grad()(lambda: backbone(image))


def _training_step(backbone, image):
    def step():
        backbone.zero_grad(set_to_none=True)
        backbone(image).square().mean().backward()

    return step


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()
