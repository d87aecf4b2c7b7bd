"""`scaling`: where communication bounds data-parallel training: gradients, links, a step's time.

DistributedDataParallel adds up the gradients of all GPUs during the backward pass. Nothing is
lost while that takes no longer than the backward pass; for what takes longer, each step waits.
docs/results/scaling.md has the table.
"""

from argparse import Namespace
from math import ceil, inf

import torch
from detectron2.config import instantiate
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from d2_regnet import model_zoo
from d2_regnet.archs import list_archs
from d2_regnet.utils.cli import bad_input
from d2_regnet.utils.flops import count_flops

# Bytes a second in one direction, of the slowest link on the ring around all GPUs: within a
# machine NVLink of an A100; between machines the network adapter of each, which its GPUs share.
LINKS = {
    "NVLink": 300e9,
    "InfiniBand 400 Gb/s": 400e9 / 8,
    "InfiniBand 100 Gb/s": 100e9 / 8,
    "Ethernet 25 Gb/s": 25e9 / 8,
}
LATENCY = 5e-6  # seconds from one GPU to the next; an assumption
BUCKET = 25 * 2**20  # bytes that DistributedDataParallel sends at once
BACKWARD = 2 / 3  # of a step: twice the multiply-adds of the forward pass

# Detectron2's model zoo: Mask R-CNN R50-FPN, 8 V100, 2 images each, seconds a step; and what
# `flops.count_flops` counts of that model, multiply-adds an image.
REFERENCE_SECONDS = 0.261
REFERENCE_FLOPS = 249_714_903_808


def gradient_bytes(model: nn.Module, bytes_each: int = 4) -> int:
    """What a GPU sends, once around: the gradients of all parameters that are trained.

    Args:
        model: on any device, also `meta`.
        bytes_each: of a number; 2 with `train.ddp.fp16_compression`.
    """
    return bytes_each * sum(p.numel() for p in model.parameters() if p.requires_grad)


def step_seconds(flops: float, speed: float = 1.0) -> float:
    """Computation of a step of two images, in proportion to the reference's multiply-adds.

    Args:
        flops: multiply-adds an image.
        speed: of the GPU, in V100s at float32.
    """
    return REFERENCE_SECONDS * flops / REFERENCE_FLOPS / speed


def ring_seconds(size: int, gpus: int, bandwidth: float, latency: float = LATENCY) -> float:
    """A ring all-reduce: each GPU sends 2 (N - 1) / N of the bytes, in 2 (N - 1) turns a bucket.

    Args:
        size: in bytes.
        gpus: N, at least 1.
        bandwidth: of the slowest link, bytes a second.
        latency: seconds a turn.
    """
    turns = 2 * (gpus - 1)
    return turns / gpus * size / bandwidth + turns * latency * ceil(size / BUCKET)


def efficiency(compute: float, communicate: float) -> float:
    """The share of a step, 0 to 1, in which GPUs compute, all but the wait for gradients hidden.

    Args:
        compute: seconds of forward and backward.
        communicate: seconds of the all-reduce, which goes on during the backward pass.
    """
    return compute / (compute + max(0.0, communicate - BACKWARD * compute))


def hiding_bandwidth(size: int, gpus: int, compute: float, latency: float = LATENCY) -> float:
    """The bandwidth, in bytes a second, from which on the all-reduce is hidden; inf: none is."""
    turns = 2 * (gpus - 1)
    left = BACKWARD * compute - turns * latency * ceil(size / BUCKET)
    return turns / gpus * size / left if left > 0 else float("inf")


_NETWORKS = [name for name in LINKS if name != "NVLink"]
_EXAMPLES = """
The table of docs/results/scaling.md is for a GPU as fast as eight V100:
    $ %(prog)s --speed 8

Other models:
    $ %(prog)s retinanet_regnetx_3.2gf_fpn_1x cascade_mask_rcnn_regnetx_4.0gf_fpn_3x
"""


def add_command(commands) -> None:
    """Adds `scaling` to an `ArgumentParser.add_subparsers`."""
    about = "where communication would bound the training of each arch"
    parser = commands.add_parser(
        "scaling",
        description=f"{about}: a Markdown table",
        help=about,
        examples=_EXAMPLES,
        dry_run="name the models that would be counted",
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="default: Mask R-CNN 1x of each published RegNet"
    )
    parser.add_argument(
        "--speed", type=float, default=1.0, help="of a GPU, in V100s at float32 (default: 1)"
    )
    parser.set_defaults(run=run)


def run(args: Namespace) -> int:
    with bad_input(args.verbose):
        if args.speed <= 0:
            raise ValueError(f"--speed must be positive, not {args.speed}")
        models = {name: model_zoo.canonical_name(name) for name in args.models} or {
            arch: f"mask_rcnn_{arch.replace('-', '_').lower()}_fpn_1x" for arch in list_archs()
        }
    if args.dry_run:
        print("\n".join(models.values()))
        return 0
    lines = [line(name, model, args.speed) for name, model in tqdm(models.items(), disable=None)]
    header = ["model", "gradients, MB", "step, s", "8 NVLink"]
    header += [f"{gpus}, {link.split()[1]}" for gpus in (64, 512) for link in _NETWORKS]
    header += ["64 need", "512 need"]
    align = ["left"] + ["right"] * (len(header) - 1)
    print(tabulate(lines, header, "github", colalign=align, disable_numparse=True))
    return 0


def line(name: str, model: str, speed: float) -> list[str]:
    """A line of the table: percentages of a step in which GPUs compute."""
    size, flops = measured(model)
    step = step_seconds(flops, speed)

    def share(gpus, link):
        return f"{100 * efficiency(step, ring_seconds(size, gpus, LINKS[link])):.0f}"

    return [
        name,
        f"{size / 1e6:.0f}",
        f"{step:.3f}",
        share(8, "NVLink"),
        *(share(gpus, link) for gpus in (64, 512) for link in _NETWORKS),
        *(gigabits(hiding_bandwidth(size, gpus, step)) for gpus in (64, 512)),
    ]


def measured(model: str) -> tuple[int, int]:
    """Bytes of its gradients, and multiply-adds an image."""
    cfg = model_zoo.get_config(model)
    with torch.device("meta"):
        if "arch" in cfg.model.backbone.bottom_up:
            cfg.model.backbone.bottom_up.fuse_conv_norm = False
        built = instantiate(cfg.model)
        return gradient_bytes(built), sum(count_flops(built.eval()).values())


def gigabits(bandwidth: float) -> str:
    """Bytes a second as Gb/s."""
    return f"{8 * bandwidth / 1e9:.0f}" if bandwidth < inf else "-"
