"""`backbone`: RegNet backbones, and EfficientNets beside them, forward or in a training step."""

import functools

import torch

from d2_regnet import model_zoo

from .bodies import (
    LIBRARIES,
    build,
    equal_weights,
    for_inference,
    multiply_adds,
    name_in,
    random_state,
    spelled,
)
from .saved import saved_bytes
from .timing import compared, take_turns

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


def measure(
    arch: str,
    peers: list[str],
    *,
    size: tuple[int, int],
    batch: int,
    train: bool,
    dtypes: list[str],
    compile: bool,
    device: str,
    rounds: int,
    discard: int,
) -> list[dict]:
    """Times one arch; each result has the median in `seconds`, and how far the output is from that
    of our own unfused float32 backbone."""
    arch, _, side = arch.partition("@")
    size = (int(side), int(side)) if side else size
    torch.manual_seed(0)
    picture = torch.randn(batch, 3, *size)
    state = None
    if not arch.startswith("efficientnet"):
        state = random_state(arch)
        reference = build("unfused", arch)
        equal_weights("unfused", reference, state)
        with torch.no_grad():
            expected = reference.eval()(picture)
    picture = picture.to(device)
    runs, results = {}, {}
    for peer in peers:
        for dtype in dtypes if peer == "ours" and not train else ["float32"]:
            body = build(peer, arch)
            if state is not None:
                equal_weights(peer, body, state)
            body = body.to(device).train(train)
            name = peer if dtype == "float32" else f"{peer} {dtype}"
            result = results[name] = {"arch": arch, "peer": name, "dtype": dtype}
            result["size"] = f"{size[0]}x{size[1]}"
            if train:
                forward = functools.partial(body, picture)
                runs[name] = _training_step(body, picture)
                result["saved_bytes"] = saved_bytes(forward, body.parameters())
            else:
                forward = runs[name] = _forward(body, picture, dtype, compile, peer == "ours")
            # In training, BN computes with other statistics than the others.
            if state is not None and not (train and peer in LIBRARIES):
                result["difference"] = _difference(forward().detach().float().cpu(), expected)
    timings = take_turns(runs, rounds=rounds, discard=discard, device=device, title=arch)
    flops = multiply_adds(arch, size) * (3 if train else 1)
    for name, timing in timings.items():
        results[name] |= timing.figures(batch, flops) | {"ap": published_ap(arch)}
    compared([*results.values()])
    return [*results.values()]


def published_ap(arch: str) -> float | None:
    """The box AP of the backbone's Mask R-CNN at 3x, where MMDetection published one."""
    row = model_zoo.rows().get(f"mask_rcnn_{arch.lower().replace('-', '_')}_fpn_3x")
    return row and row["box_ap"]


def _forward(body, picture, dtype, compile, is_ours):
    kind = getattr(torch, dtype)
    if is_ours:
        body = for_inference(body, kind, compile)
        # What arrives is what any peer gets: float32, channels first.
        return torch.no_grad()(
            lambda: body(picture.to(dtype=kind, memory_format=torch.channels_last))
        )
    return torch.no_grad()(lambda: body(picture))


def _training_step(body, picture):
    def step():
        body.zero_grad(set_to_none=True)
        body(picture).square().mean().backward()

    return step


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()
