"""Times backbones, detectors, training steps, data loading and evaluation beside their
alternatives, and a machine's neighbours; see docs/results/performance.md."""

import logging
import sys
from argparse import Namespace
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import machine, neighbours, plot, scaling
from benchmarks.arguments import COMMANDS, add_commands, check, plan
from benchmarks.results import COUNTED, about, as_json, table
from d2_regnet.utils.cli import ToolParser, bad_input, failure
from d2_regnet.utils.files import whole_file

_EXAMPLES = """
RegNets beside the same RegNets of other libraries, and EfficientNets:
    $ %(prog)s backbone --archs RegNetX-400MF RegNetY-800MF efficientnet_b1@240 --size 224 224

A training step of backbones, and what it keeps for the backward pass:
    $ %(prog)s backbone --train --peers ours unfused checkpointed detectron2

Whole detectors, with an image of the results:
    $ %(prog)s detector --models retinanet_regnetx_800mf_fpn_1x --plot a.png

The memory of every model:
    $ %(prog)s memory --models all --json memory.json
"""


def argument_parser() -> ToolParser:
    parser = ToolParser(__doc__, _EXAMPLES, prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_commands(commands, compare)
    scaling.add_command(commands)
    neighbours.add_command(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    return args.run(args)


def compare(args: Namespace) -> int:
    with bad_input(args.verbose):
        check(args)
        groups, skipped = plan(args)
    for line in skipped:
        print(f"left out: {line}")
    if args.dry_run:
        for group, peers in groups.items():
            print(f"{args.command}: {group}: {', '.join(peers)}")
        return 0
    with failure(args.verbose):
        measure(args, groups, skipped)
    return 0


def measure(args: Namespace, groups: dict, skipped: list[str]) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    low = ["float16"] if getattr(args, "amp", False) else []
    dtypes = list(dict.fromkeys(["float32", *getattr(args, "dtypes", []), *low]))
    found = machine.measured(args.device, dtypes)
    results = []
    for group, peers in tqdm(groups.items(), desc=args.command, disable=None):
        results += COMMANDS[args.command].measure(group, peers, args)
    found = machine.fastest(found, machine.measured(args.device, dtypes))
    for result in results:
        result |= machine.against_peaks(result, found)
    print(table(results))
    print(f"\n{about(found)}")
    if any("share_of_peak" in result for result in results):
        print(f"\n{COUNTED}")
    if args.json:
        write(args.json, as_json(args, found, skipped, results))
    if getattr(args, "plot", None):
        write(args.plot, plot.draw(results, f"{title(args, results)}; {about(found)}"))


def write(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)
    print(f"Wrote {path}")


def title(args: Namespace, results: list[dict]) -> str:
    """What the image shows."""
    what = "a training step" if getattr(args, "train", False) else "inference"
    sizes = {result.get("size", "x".join(map(str, args.size))) for result in results}
    size = sizes.pop() if len(sizes) == 1 else "each at its own size"
    kind = {"backbone": "Backbones", "detector": "Detectors"}[args.command]
    return f"{kind}, {what}, batch {args.batch}, {size}"


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(main())
