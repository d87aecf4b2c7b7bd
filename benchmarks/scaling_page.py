#!/usr/bin/env python
"""Prints, as Markdown, where communication would bound the training of each arch; see
docs/SCALING.md."""

import sys
from math import inf

import torch
from detectron2.config import instantiate
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.scaling import (
    LINKS,
    efficiency,
    gradient_bytes,
    hiding_bandwidth,
    ring_seconds,
    step_seconds,
)
from d2_regnet import model_zoo
from d2_regnet.archs import list_archs
from d2_regnet.utils.cli import ToolParser, bad_input
from d2_regnet.utils.flops import count_flops

_EXAMPLES = """
The table of docs/SCALING.md, and the same for a GPU as fast as eight V100:
    $ %(prog)s
    $ %(prog)s --speed 8

Other rows:
    $ %(prog)s retinanet_regnetx_3.2gf_fpn_1x cascade_mask_rcnn_regnetx_4.0gf_fpn_3x
"""
_NETWORKS = [name for name in LINKS if name != "NVLink"]


def argument_parser() -> ToolParser:
    parser = ToolParser(
        __doc__,
        _EXAMPLES,
        prog="python -m benchmarks.scaling_page",
        dry_run="name the models that would be counted",
    )
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help="default: Mask R-CNN 1x of each published RegNet"
    )
    parser.add_argument(
        "--speed", type=float, default=1.0, help="of a GPU, in V100s at float32 (default: 1)"
    )
    return parser


def measured(row: str) -> tuple[int, int]:
    """Bytes of its gradients, and multiply-adds an image."""
    cfg = model_zoo.get_config(row)
    with torch.device("meta"):
        if "arch" in cfg.model.backbone.bottom_up:
            cfg.model.backbone.bottom_up.fuse_conv_norm = False
        model = instantiate(cfg.model)
        trained = gradient_bytes(model)
        return trained, sum(count_flops(model.eval()).values())


def line(row: str, name: str, speed: float) -> list:
    """A row of the table: percentages of a step in which GPUs compute."""
    size, flops = measured(row)
    step = step_seconds(flops, speed)

    def share(gpus, link):
        return f"{100 * efficiency(step, ring_seconds(size, gpus, LINKS[link])):.0f}"

    shares = [share(gpus, link) for gpus in (64, 512) for link in _NETWORKS]
    return [
        name,
        f"{size / 1e6:.0f}",
        f"{step:.3f}",
        share(8, "NVLink"),
        *shares,
        *(gigabits(hiding_bandwidth(size, gpus, step)) for gpus in (64, 512)),
    ]


def gigabits(bandwidth: float) -> str:
    """Bytes a second as Gb/s."""
    return f"{8 * bandwidth / 1e9:.0f}" if bandwidth < inf else "-"


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    with bad_input(args.verbose):
        if args.speed <= 0:
            raise ValueError(f"--speed must be positive, not {args.speed}")
        for row in args.rows:
            model_zoo.get_config(row)
    rows = {row: row for row in args.rows} or {
        f"mask_rcnn_{arch.replace('-', '_').lower()}_fpn_1x": arch for arch in list_archs()
    }
    if args.dry_run:
        print("\n".join(rows))
        return 0
    lines = [line(row, name, args.speed) for row, name in tqdm(rows.items(), disable=None)]
    header = ["model", "gradients, MB", "step, s", "8 NVLink"]
    header += [f"{gpus}, {link.split()[1]}" for gpus in (64, 512) for link in _NETWORKS]
    header += ["64 need", "512 need"]
    align = ["left"] + ["right"] * (len(header) - 1)
    print(tabulate(lines, header, "github", colalign=align, disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
