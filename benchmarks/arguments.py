"""The sub-commands that compare, their options, and what cannot run."""

import os
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks import backbone, data, detector, detectors, evaluate, layers, train
from benchmarks.results import COUNTED
from d2_regnet.utils.cli import ToolParser

_MODELS = ["mask_rcnn_regnetx_400mf_fpn_3x"]
OPTIONS = {
    "peers": dict(nargs="+", help="who is compared (default: %(default)s)"),
    "archs": dict(
        nargs="+",
        default=["RegNetX-400MF"],
        help="RegNets, EfficientNets; NAME@SIDE has its own square images",
    ),
    "models": dict(nargs="+", default=_MODELS, help="of the zoo (default: %(default)s)"),
    "train": dict(action="store_true", help="forward and backward, not forward"),
    "compile": dict(action="store_true", help="torch.compile our inference"),
    "amp": dict(action="store_true", help="float16 autocast for all (GPU)"),
    "cuda-graphs": dict(action="store_true", help="replay our backbone and FPN (GPU)"),
    "size": dict(nargs=2, type=int, default=[800, 1216], metavar=("H", "W")),
    "batch": dict(type=int, default=1, help="images (default: %(default)s)"),
    "dtypes": dict(
        nargs="+",
        choices=("float32", "bfloat16", "float16"),
        default=["float32"],
        help="of our inference; all else is float32",
    ),
    "layers": dict(type=int, default=8, help="how many (default: %(default)s)"),
    "dataset": dict(default="coco_2017_val", help="registered name (default: %(default)s)"),
    "annotations": dict(default="", metavar="JSON", help="COCO's format, instead"),
    "images": dict(default="", metavar="DIR", help="of --annotations"),
    "count": dict(type=int, default=100, help="images at most (default: %(default)s)"),
    "rounds": dict(type=int, default=5, help="timed runs (default: %(default)s)"),
    "discard": dict(type=int, default=1, help="runs before (default: %(default)s)"),
    "threads": dict(type=int, help="of the CPU (default: as many as cores)"),
    "device": dict(default="cpu", help="cpu (default) or cuda"),
    "json": dict(type=Path, metavar="FILE", help="write the results"),
    "plot": dict(type=Path, metavar="FILE.png", help="draw the results"),
}
# A median of fewer than five runs, of which the first fills caches, says little.
_LEAST = {"rounds": 5, "discard": 1, "batch": 1, "threads": 1, "count": 1, "layers": 1}


@dataclass(frozen=True)
class Command:
    """A comparison.

    Attributes:
        measure: called with one of what is compared, its peers and the arguments; the results.
        help: a line.
        peers: all there are.
        options: of `OPTIONS`; all have `threads`, `device` and `json`.
        examples: their arguments.
        defaults: other ones than those of `OPTIONS`.
    """

    measure: Callable[[str, list[str], Namespace], list[dict]]
    help: str
    peers: Iterable[str]
    options: str
    examples: list[str]
    defaults: dict = field(default_factory=dict)


_OURS = {"peers": ["ours", "detectron2"]}
_STEP = {"size": [800, 1333], "batch": 2}
COMMANDS = {
    "backbone": Command(
        backbone.measure,
        "backbones alone",
        backbone.PEERS,
        "peers archs train compile size batch dtypes plot rounds discard",
        [
            "--archs RegNetX-3.2GF --peers ours detectron2 torchvision timm",
            "--train --archs RegNetX-400MF --batch 2 --peers ours unfused checkpointed detectron2",
            "--size 224 224 --batch 4 --peers ours --archs RegNetX-800MF efficientnet_b2@260",
        ],
        _OURS,
    ),
    "detector": Command(
        detector.measure,
        "whole detectors at inference",
        detectors.PEERS,
        "peers models amp cuda-graphs compile size batch dtypes plot rounds discard",
        [
            "--models retinanet_regnetx_800mf_fpn_1x --dtypes float32 bfloat16",
            "--plot a.png --models mask_rcnn_regnetx_400mf_fpn_3x mask_rcnn_regnetx_3.2gf_fpn_3x",
        ],
        _OURS,
    ),
    "layers": Command(
        layers.measure,
        "the dominant layers of detectors, and what bounds them",
        ["ours"],
        "models layers size batch dtypes rounds discard",
        ["--models mask_rcnn_regnetx_3.2gf_fpn_1x --dtypes float32 bfloat16"],
    ),
    "train": Command(
        train.measure,
        "whole training steps of detectors",
        detectors.PEERS,
        "peers models amp size batch rounds discard",
        ["--models mask_rcnn_regnetx_400mf_fpn_3x --peers ours unfused detectron2"],
        _STEP | _OURS,
    ),
    "memory": Command(
        train.memory,
        "training memory of detectors",
        detectors.PEERS,
        "peers models amp size batch",
        [
            "--models mask_rcnn_regnetx_12gf_fpn_1x --peers ours unfused detectron2",
            "--models all --json memory.json",
        ],
        _STEP | {"peers": ["ours"], "models": ["all"]},
    ),
    "data": Command(
        data.measure,
        "reading, resizing and masks, in one thread",
        data.PEERS,
        "peers models dataset annotations images count rounds discard",
        ["--annotations instances_val2017.json --images val2017 --count 16"],
        _OURS,
    ),
    "evaluate": Command(
        evaluate.measure,
        "COCO AP of synthetic predictions",
        evaluate.PEERS,
        "peers count rounds discard",
        ["--count 200"],
        _OURS | {"count": 5000},
    ),
}


def add_commands(commands, run: Callable[[Namespace], int]) -> None:
    """Adds the comparisons to an `ArgumentParser.add_subparsers`; each sets `run`."""
    for name, command in COMMANDS.items():
        parser: ToolParser = commands.add_parser(
            name,
            description=command.help,
            help=command.help,
            examples="\n".join(f"    $ %(prog)s {line}" for line in command.examples),
            dry_run="list what would run, and run nothing",
        )
        if name in ("backbone", "detector", "layers"):
            parser.epilog += "\n\n" + COUNTED.replace("%", "%%")
        for option in (*command.options.split(), "threads", "device", "json"):
            choices = {"choices": [*command.peers]} if option == "peers" else {}
            parser.add_argument(f"--{option}", **OPTIONS[option], **choices)
        parser.set_defaults(**{"peers": [*command.peers], **command.defaults, "run": run})


def check(args: Namespace) -> None:
    """Raises ValueError or OSError for what cannot run."""
    given = vars(args)
    for key, least in _LEAST.items():
        if given.get(key) is not None and given[key] < least:
            raise ValueError(f"--{key} must be at least {least}, not {given[key]}")
    if min(given.get("size", [64])) < 64:
        raise ValueError(f"--size must be at least 64 64, not {args.size[0]} {args.size[1]}")
    _check_device(args)
    if given.get("train") and (args.compile or args.dtypes != ["float32"]):
        raise ValueError(
            "--train goes with neither --dtypes nor --compile, which are for inference"
        )
    for path in filter(None, (args.json, given.get("plot"))):
        if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            raise FileNotFoundError(f"{path}: there is no folder {path.parent} to write to")
    if args.command == "data":
        data.load_records(args.dataset, args.annotations, args.images, args.count)


def _check_device(args: Namespace) -> None:
    given = vars(args)
    if args.device not in ("cpu", "cuda"):
        raise ValueError(f"--device is cpu or cuda, not {args.device}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no GPU here")
    for option in ("amp", "cuda_graphs"):
        if given.get(option) and args.device == "cpu":
            raise ValueError(f"--{option.replace('_', '-')} is for --device cuda")
    if "float16" in given.get("dtypes", ()) and args.device == "cpu":
        raise ValueError("--dtypes float16 is for --device cuda; CPUs have bfloat16")
    if args.command in ("data", "evaluate") and args.device != "cpu":
        raise ValueError(f"{args.command} runs on the CPU alone")


def plan(args: Namespace) -> tuple[dict, list[str]]:
    """What is compared, each with its peers, and what is left out."""
    peers = list(dict.fromkeys(args.peers))
    if args.command == "backbone":
        return backbone.plan(args.archs, peers)
    if args.command == "evaluate":
        return {args.count: peers}, []
    return dict.fromkeys(detectors.names(args.models), peers), []
