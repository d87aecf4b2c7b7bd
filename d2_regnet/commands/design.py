"""Describes, samples, times and compares RegNets; see docs/guides/design.md."""

import json
import logging
import sys
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

import torch
from tabulate import tabulate
from tqdm import tqdm

from d2_regnet.design import arguments, describing, plots, study
from d2_regnet.design.picking import Measurement
from d2_regnet.design.sampling import SPACES, sample
from d2_regnet.design.saving import write, write_sample
from d2_regnet.utils.cli import ToolParser, bad_input, failure
from d2_regnet.utils.files import check_folder

_EXAMPLES = """
What a RegNet is made of, and an image of its widths:
    $ %(prog)s describe RegNetX-3.2GF my_regnet.yaml --picture widths.png

500 networks of 1.6 GF, each in a file that stands for an arch everywhere:
    $ %(prog)s sample --flops 1.6GF --n 500 --output samples

The best backbone for a time on this machine:
    $ %(prog)s pick --budget-ms 40 --size 800x1216

Two design spaces compared by many quick trainings:
    $ %(prog)s edf --output edf
"""
_DESCRIBE = """
    $ %(prog)s RegNetX-3.2GF
    $ %(prog)s RegNetX-400MF RegNetY-400MF my_regnet.yaml --size 800x1216 --picture widths.png
"""
_SAMPLE = """
    $ %(prog)s --flops 1.6GF --n 500 --output samples
    $ %(prog)s --flops 400MF --n 20 --family Y --output samples_y
    $ d2-regnet design pick --budget-ms 200 --candidates samples/archs
"""
_PICK = """
    $ %(prog)s --budget-ms 40 --size 800x1216
    $ %(prog)s --budget-ms 300 --train --candidates RegNetX-400MF samples/archs --picture pick.png
"""
_EDF = """
    $ %(prog)s --output edf
    $ %(prog)s --spaces anynet_a anynet_e regnet constrained --n 50 --output edf_50
"""
_ARCH = "a published RegNet, or a YAML file with depth, w_0, w_a, w_m and group_width"


def argument_parser() -> ToolParser:
    parser = ToolParser(__doc__, _EXAMPLES, prog="d2-regnet design")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    about = "Prints what networks are made of and what they cost, stage by stage."
    part = commands.add_parser("describe", help=about, description=about, examples=_DESCRIBE)
    part.add_argument("archs", nargs="+", metavar="ARCH", help=_ARCH)
    part.add_argument("--size", default="224", help="HxW of the image (%(default)s)")
    part.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the blocks' widths")
    part.add_argument("--json", action="store_true", help="print JSON in place of tables")
    part.set_defaults(work=describe)

    about = "Draws networks at random from the paper's design space, at a number of FLOPs."
    part = commands.add_parser(
        "sample",
        help=about,
        description=about,
        examples=_SAMPLE,
        dry_run="check the arguments and say what would be written",
    )
    part.add_argument("--flops", required=True, help="at 224x224: 400MF, 1.6GF, ...")
    part.add_argument("--n", type=int, default=500, help="how many (%(default)s)")
    part.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    part.add_argument(
        "--space",
        choices=("constrained", "regnet"),
        default="constrained",
        help="%(choices)s: within section 4's limits or not (%(default)s)",
    )
    part.add_argument("--family", choices="XY", default="X", help="Y has squeeze-and-excitation")
    part.add_argument("--tolerance", type=float, default=0.05, help="of --flops (%(default)s)")
    part.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    part.set_defaults(work=draw_sample)

    about = "Measures this machine and shows which backbones are worth their time."
    part = commands.add_parser(
        "pick",
        help=about,
        description=about,
        examples=_PICK,
        dry_run="say what would be measured",
    )
    part.add_argument("--budget-ms", type=float, required=True, help="for an image's pass")
    part.add_argument("--size", default="800x1216", help="HxW of the image (%(default)s)")
    part.add_argument(
        "--candidates",
        nargs="+",
        default=[],
        metavar="ARCH|DIR",
        help=f"{_ARCH}, or a folder of them (the 24 published ones)",
    )
    part.add_argument("--train", action="store_true", help="time a training step's pass")
    part.add_argument("--rounds", type=int, default=9, help="measurements of each (%(default)s)")
    part.add_argument("--device", default="", help="cpu or cuda (cuda where there is one)")
    part.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the frontier")
    part.add_argument("--json", action="store_true", help="print JSON in place of a table")
    part.set_defaults(work=pick)

    about = "Compares design spaces by quick trainings on the built-in shapes; goes on if stopped."
    part = commands.add_parser(
        "edf",
        help=about,
        description=about,
        examples=_EDF,
        dry_run="say what would be trained",
    )
    default = {field.name: field.default for field in fields(study.Plan)}
    part.add_argument(
        "--spaces", nargs="+", choices=SPACES, default=["anynet_a", "constrained"], metavar="SPACE",
        help=", ".join(SPACES),
    )  # fmt: skip
    part.add_argument("--n", type=int, default=24, help="networks of each (%(default)s)")
    part.add_argument("--flops", default="100MF", help="at 224x224 (%(default)s)")
    part.add_argument("--family", choices="XY", default="X", help="Y has squeeze-and-excitation")
    for name, about in (
        ("steps", "of each training"),
        ("batch-size", "crops a step"),
        ("lr", "highest learning rate"),
        ("seed", ""),
    ):
        value = default[name.replace("-", "_")]
        part.add_argument(
            f"--{name}", type=type(value), default=value, help=f"{about} (%(default)s)"
        )
    part.add_argument("--output", type=Path, required=True, metavar="DIR")
    part.set_defaults(work=compare)
    return parser


def describe(args) -> None:
    with bad_input(args.verbose):
        size = arguments.size(args.size)
        archs = arguments.archs(args.archs)
        check_picture(args.picture)
    if args.json:
        found = {name: describing.facts(arch, size) for name, arch in archs.items()}
        print(json.dumps(found, indent=1))
    else:
        print("\n\n".join(describing.text(name, arch, size) for name, arch in archs.items()))
    write_picture(args, lambda: plots.widths(archs))


def draw_sample(args) -> None:
    with bad_input(args.verbose):
        flops = arguments.flops(args.flops)
        check_folder(args.output)
        if args.output.exists() and any(args.output.iterdir()):
            raise FileExistsError(f"--output: {args.output} is not empty; choose a new folder")
        settings = dict(family=args.family, tolerance=args.tolerance, seed=args.seed)
        if args.dry_run:
            sample(args.space, flops, 1, **settings)
            print(f"Would write {args.n} archs of {args.flops} to {args.output}; wrote nothing")
            return
        bar = partial(tqdm, desc="networks found", disable=None)
        archs = sample(args.space, flops, args.n, progress=bar, **settings)
    with failure(args.verbose):
        write_sample(args.output, f"regnet{args.family}_{args.flops}".lower(), archs)
    print(tabulate(describing.summary(archs), headers="keys", floatfmt=".3g"))
    print(f"\nWrote {args.output}: samples.csv, samples.json, samples.png and archs/*.yaml")


def pick(args) -> None:
    with bad_input(args.verbose):
        measurement = Measurement(
            archs=arguments.archs(args.candidates),
            size=arguments.size(args.size),
            device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"),
            train=args.train,
            budget_ms=args.budget_ms,
            rounds=args.rounds,
        )
        check_picture(args.picture)
    if args.dry_run:
        print(f"Would time the {measurement.what} ({measurement.where}) of", end=" ")
        print(f"{len(measurement.names)}: {', '.join(measurement.names)}")
        return
    with failure(args.verbose):
        answer = measurement.run(lambda each, word: tqdm(each, desc=word, disable=None))
        print(json.dumps(answer.as_dict(), indent=1) if args.json else answer.text())
    write_picture(args, lambda: plots.frontier(answer))


def compare(args) -> None:
    with bad_input(args.verbose):
        check_folder(args.output)
        plan = study.Plan(
            spaces=tuple(args.spaces),
            n=args.n,
            flops=arguments.flops(args.flops),
            family=args.family,
            steps=args.steps,
            batch_size=args.batch_size,
            lr=args.lr,
            seed=args.seed,
        )
        done = study.load(plan, args.output / "results.json")
    count = {space: len(rows) for space, rows in done.items()}
    if args.dry_run:
        for key, value in asdict(plan).items():
            print(f"{key}: {value}")
        print(f"Would train {plan.n * len(plan.spaces) - sum(count.values())}; done: {count}")
        return
    try:
        with failure(args.verbose):
            args.output.mkdir(parents=True, exist_ok=True)
            bar = partial(tqdm, desc="networks trained", disable=None)
            results = study.run(plan, args.output, bar)
            write(args.output / "edf.png", plots.distributions(results, titles(plan)))
    except KeyboardInterrupt:
        print(f"Stopped. The same command goes on from here (folder {args.output}).")
        sys.exit(130)
    print(study.text(results))
    print(f"\nWrote {args.output}: results.json, edf.png")


def titles(plan: study.Plan) -> dict[str, str]:
    """The paper's names."""
    regnets = {"regnet": f"RegNet{plan.family}", "constrained": f"RegNet{plan.family}, constrained"}
    return {
        space: regnets.get(space, f"AnyNet{plan.family}_{space[-1].upper()}")
        for space in plan.spaces
    }


def check_picture(file: Path | None) -> None:
    if file and file.suffix.lower() != ".png":
        raise ValueError(f"--picture: {file} does not end in .png")
    if file and not file.absolute().parent.is_dir():
        raise FileNotFoundError(f"--picture: there is no folder {file.parent}")


def write_picture(args, make) -> None:
    if args.picture:
        with failure(args.verbose):
            write(args.picture, make())
        print(f"Wrote {args.picture}", file=sys.stderr if args.json else sys.stdout)


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    args.work(args)
    return 0
