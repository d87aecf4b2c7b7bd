#!/usr/bin/env python
"""Times backbones, detectors, training steps, data loading and evaluation beside their alternatives;
see docs/PERFORMANCE.md."""

import inspect
import logging
import os
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import body, data, detector, detectors, evaluate, layers, machine, plot, train
from benchmarks.results import COUNTED, about, as_json, table
from d2_regnet.utils.cli import ToolParser, bad_input, failure
from d2_regnet.utils.files import whole_file

_EXAMPLES = """
RegNets beside the same RegNets of other libraries, and EfficientNets:
    $ %(prog)s backbone --archs RegNetX-400MF RegNetY-800MF efficientnet_b1@240 --size 224 224

A training step of backbones, and what it keeps for the backward pass:
    $ %(prog)s backbone --train --peers ours unfused checkpointed detectron2

Whole detectors, with an image of the results:
    $ %(prog)s detector --rows retinanet_regnetx_800mf_fpn_1x --dtypes float32 bfloat16 --plot a.png

The memory of every row:
    $ %(prog)s memory --rows all --json memory.json
"""
_EXAMPLES_OF = {
    "backbone": """
    $ %(prog)s --archs RegNetX-3.2GF --peers ours detectron2 torchvision timm
    $ %(prog)s --train --archs RegNetX-400MF --batch 2 --peers ours unfused checkpointed detectron2
    $ %(prog)s --peers ours --size 224 224 --batch 4 --archs RegNetX-800MF efficientnet_b2@260
""",
    "detector": """
    $ %(prog)s --rows retinanet_regnetx_800mf_fpn_1x --dtypes float32 bfloat16
    $ %(prog)s --rows mask_rcnn_regnetx_400mf_fpn_3x mask_rcnn_regnetx_3.2gf_fpn_3x --plot a.png
""",
    "layers": """
    $ %(prog)s --rows mask_rcnn_regnetx_3.2gf_fpn_1x --dtypes float32 bfloat16
""",
    "train": """
    $ %(prog)s --rows mask_rcnn_regnetx_400mf_fpn_3x --peers ours unfused detectron2
""",
    "memory": """
    $ %(prog)s --rows mask_rcnn_regnetx_12gf_fpn_1x --peers ours unfused detectron2
    $ %(prog)s --rows all --json memory.json
""",
    "data": """
    $ %(prog)s --annotations instances_val2017.json --images val2017 --pictures 16
""",
    "evaluate": """
    $ %(prog)s --pictures 200
""",
}

_COMMANDS = {
    "backbone": body.measure,
    "detector": detector.measure,
    "layers": layers.measure,
    "train": train.measure,
    "memory": train.memory,
    "data": data.measure,
    "evaluate": evaluate.measure,
}
# A median of fewer than five runs, of which the first fills caches, says little.
_LEAST = {"rounds": 5, "discard": 1, "batch": 1, "threads": 1, "images": 1, "layers": 1}


def argument_parser() -> ToolParser:
    parser = ToolParser(__doc__, _EXAMPLES, prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, help, peers, *, timed=True, plotted=False):
        command = commands.add_parser(
            name,
            description=help,
            help=help,
            examples=_EXAMPLES_OF[name],
            dry_run="list what would run, and run nothing",
        )
        if name in ("backbone", "detector", "layers"):
            command.epilog += "\n\n" + COUNTED.replace("%", "%%")
        default = [peer for peer in ("ours", "detectron2") if timed or peer == "ours"]
        if len(peers) > 1:
            command.add_argument("--peers", nargs="+", choices=peers, default=default)
        else:
            command.set_defaults(peers=peers)
        if timed:
            command.add_argument("--rounds", type=int, default=5, help="timed runs (%(default)s)")
            command.add_argument("--discard", type=int, default=1, help="runs before (%(default)s)")
        command.add_argument("--threads", type=int, help="of the CPU (default: as many as cores)")
        command.add_argument("--device", default="cpu", help="cpu (default) or cuda")
        command.add_argument("--json", type=Path, metavar="FILE", help="write the results")
        if plotted:
            command.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the results")
        return command

    def sized(command, size, batch):
        command.add_argument(
            "--size", nargs=2, type=int, default=size, metavar=("H", "W"), help=f"default: {size}"
        )
        command.add_argument("--batch", type=int, default=batch, help="images (%(default)s)")

    def precise(command):
        command.add_argument(
            "--dtypes",
            nargs="+",
            choices=("float32", "bfloat16", "float16"),
            default=["float32"],
            help="of our inference; all else is float32",
        )

    one = add("backbone", "backbones alone", body.PEERS, plotted=True)
    one.add_argument(
        "--archs",
        nargs="+",
        default=["RegNetX-400MF"],
        help="RegNets, EfficientNets; NAME@SIDE has its own square images",
    )
    one.add_argument("--train", action="store_true", help="forward and backward, not forward")
    one.add_argument("--compile", action="store_true", help="torch.compile our inference")
    sized(one, [800, 1216], 1)
    precise(one)

    one = add("detector", "whole detectors at inference", detectors.PEERS, plotted=True)
    one.add_argument("--rows", nargs="+", default=["mask_rcnn_regnetx_400mf_fpn_3x"])
    one.add_argument("--amp", action="store_true", help="float16 autocast for all (GPU)")
    one.add_argument("--cuda-graphs", action="store_true", help="replay our backbone and FPN (GPU)")
    one.add_argument("--compile", action="store_true", help="torch.compile our inference")
    sized(one, [800, 1216], 1)
    precise(one)

    one = add("layers", "the dominant layers of detectors, and what bounds them", ["ours"])
    one.add_argument("--rows", nargs="+", default=["mask_rcnn_regnetx_400mf_fpn_3x"])
    one.add_argument("--layers", type=int, default=8, help="how many (%(default)s)")
    sized(one, [800, 1216], 1)
    precise(one)

    one = add("train", "whole training steps of detectors", detectors.PEERS)
    one.add_argument("--rows", nargs="+", default=["mask_rcnn_regnetx_400mf_fpn_3x"])
    one.add_argument("--amp", action="store_true", help="float16 autocast (GPU)")
    sized(one, [800, 1333], 2)

    one = add("memory", "training memory of detectors", detectors.PEERS, timed=False)
    one.add_argument("--rows", nargs="+", default=["all"])
    one.add_argument("--amp", action="store_true", help="float16 autocast (GPU)")
    sized(one, [800, 1333], 2)

    one = add("data", "reading, resizing and masks, in one thread", data.PEERS)
    one.add_argument("--rows", nargs="+", default=["mask_rcnn_regnetx_400mf_fpn_3x"])
    one.add_argument("--dataset", default="coco_2017_val", help="registered name (%(default)s)")
    one.add_argument("--annotations", default="", metavar="JSON", help="COCO's format, instead")
    one.add_argument("--images", default="", metavar="DIR", help="of --annotations")
    one.add_argument("--pictures", type=int, default=100, help="at most (%(default)s)")

    one = add("evaluate", "COCO AP of synthetic predictions", evaluate.PEERS)
    one.add_argument("--pictures", type=int, default=5000, help="(%(default)s)")
    return parser


def check(args) -> None:
    """Raises ValueError or OSError for what cannot run."""
    for key, least in _LEAST.items():
        value = getattr(args, key, None)
        if value is not None and value < least:
            raise ValueError(f"--{key} must be at least {least}, not {value}")
    if min(getattr(args, "size", [64])) < 64:
        raise ValueError(f"--size must be at least 64 64, not {args.size[0]} {args.size[1]}")
    if args.device not in ("cpu", "cuda"):
        raise ValueError(f"--device is cpu or cuda, not {args.device}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no GPU here")
    for option in ("amp", "cuda_graphs"):
        if getattr(args, option, False) and args.device == "cpu":
            raise ValueError(f"--{option.replace('_', '-')} is for --device cuda")
    if "float16" in getattr(args, "dtypes", ()) and args.device == "cpu":
        raise ValueError("--dtypes float16 is for --device cuda; CPUs have bfloat16")
    if getattr(args, "train", False) and (args.compile or args.dtypes != ["float32"]):
        raise ValueError(
            "--train goes with neither --dtypes nor --compile, which are for inference"
        )
    if args.command in ("data", "evaluate") and args.device != "cpu":
        raise ValueError(f"{args.command} runs on the CPU alone")
    for path in filter(None, (args.json, getattr(args, "plot", None))):
        if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            raise FileNotFoundError(f"{path}: there is no folder {path.parent} to write to")


def plan(args) -> tuple[dict, list[str]]:
    """What is compared, each with its peers, and what is left out."""
    peers = list(dict.fromkeys(args.peers))
    if args.command == "backbone":
        return body.plan(args.archs, peers)
    if args.command == "evaluate":
        return {args.pictures: peers}, []
    return dict.fromkeys(detectors.rows(args.rows), peers), []


def run(args, group, peers: list[str], records) -> list[dict]:
    """The results of one comparison, by the function of the command."""
    function = _COMMANDS[args.command]
    known = vars(args) | {"records": records, "size": tuple(getattr(args, "size", ()))}
    _, *wanted = inspect.signature(function).parameters
    options = {key: value for key, value in known.items() if key in wanted}
    return function(group, **options | {"peers": peers})


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    with bad_input(args.verbose):
        check(args)
        groups, skipped = plan(args)
        records = None
        if args.command == "data":
            records = data.load_records(args.dataset, args.annotations, args.images, args.pictures)
    for line in skipped:
        print(f"left out: {line}")
    if args.dry_run:
        for group, peers in groups.items():
            print(f"{args.command}: {group}: {', '.join(peers)}")
        return 0
    with failure(args.verbose):
        measure(args, groups, skipped, records)
    return 0


def title(args, results: list[dict]) -> str:
    """What the image shows."""
    what = "a training step" if getattr(args, "train", False) else "inference"
    sizes = {result.get("size", "x".join(map(str, args.size))) for result in results}
    size = sizes.pop() if len(sizes) == 1 else "each at its own size"
    kind = {"backbone": "Backbones", "detector": "Detectors"}[args.command]
    return f"{kind}, {what}, batch {args.batch}, {size}"


def measure(args, groups: dict, skipped: list[str], records) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    low = ["float16"] if getattr(args, "amp", False) else []
    dtypes = list(dict.fromkeys(["float32", *getattr(args, "dtypes", []), *low]))
    found = machine.measured(args.device, dtypes)
    results = []
    for group, peers in tqdm(groups.items(), desc=args.command, disable=None):
        results += run(args, group, peers, records)
    found = machine.fastest(found, machine.measured(args.device, dtypes))
    for result in results:
        result |= machine.against_peaks(result, found)
    print(table(results))
    print(f"\n{about(found)}")
    if any("share_of_peak" in result for result in results):
        print(f"\n{COUNTED}")
    if args.json:
        arguments = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(args).items()
        }
        with whole_file(args.json) as file:
            file.write(as_json(args.command, arguments, found, skipped, results))
        print(f"Wrote {args.json}")
    if getattr(args, "plot", None):
        with whole_file(args.plot) as file:
            file.write(plot.draw(results, f"{title(args, results)}; {about(found)}"))
        print(f"Wrote {args.plot}")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(main())
