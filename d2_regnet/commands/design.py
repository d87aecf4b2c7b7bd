"""Describes, samples, times and compares RegNets; see docs/guides/design.md."""

import json
import logging
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from tabulate import tabulate

from d2_regnet.design import arguments, describing, plots, study
from d2_regnet.design.picking import Measurement
from d2_regnet.design.sampling import SPACES, sample
from d2_regnet.design.saving import write_sample
from d2_regnet.utils.cli import ToolParser, bad_input, failure
from d2_regnet.utils.files import check_file, check_folder, write_file
from d2_regnet.utils.progress import progress

_EXAMPLES = """
What a RegNet is made of, and a plot of its widths:
    $ %(prog)s describe RegNetX-3.2GF my_regnet.yaml --plot widths.png

500 networks of 1.6 GF, each in a file that stands for an arch everywhere:
    $ %(prog)s sample --flops 1.6GF --n 500 --output samples

The best backbone for a time on this machine:
    $ %(prog)s pick --budget-ms 40 --size 800x1216

Two design spaces compared by many quick trainings:
    $ %(prog)s edf --output edf
"""
_DESCRIBE = """
    $ %(prog)s RegNetX-3.2GF
    $ %(prog)s RegNetX-400MF RegNetY-400MF my_regnet.yaml --size 800x1216 --plot widths.png
"""
_SAMPLE = """
    $ %(prog)s --flops 1.6GF --n 500 --output samples
    $ %(prog)s --flops 400MF --n 20 --family Y --output samples_y
    $ d2-regnet design pick --budget-ms 200 --candidates samples/archs
"""
_PICK = """
    $ %(prog)s --budget-ms 40 --size 800x1216
    $ %(prog)s --budget-ms 300 --train --candidates RegNetX-400MF samples/archs --plot pick.png
"""
_EDF = """
    $ %(prog)s --output edf
    $ %(prog)s --spaces anynet_a anynet_e regnet constrained --n 50 --output edf_50
"""
_ARCH = "a published RegNet, or a YAML file with depth, w_0, w_a, w_m and group_width"


def argument_parser() -> ToolParser:
    parser = ToolParser(__doc__, _EXAMPLES, prog="d2-regnet design")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_add_describe, _add_sample, _add_pick, _add_edf):
        add(commands)
    return parser


def _add(commands, work, name: str, about: str, examples: str, **kwargs) -> ToolParser:
    part = commands.add_parser(name, help=about, description=about, examples=examples, **kwargs)
    part.set_defaults(work=work)
    return part


def _add_describe(commands) -> None:
    about = "Prints what networks are made of and what they cost, stage by stage."
    part = _add(commands, describe, "describe", about, _DESCRIBE)
    part.add_argument("archs", nargs="+", metavar="ARCH", help=_ARCH)
    part.add_argument("--size", default="224", help="HxW of the image (default: %(default)s)")
    _add_output(part, "the blocks' widths")


def _add_sample(commands) -> None:
    about = "Draws networks at random from the paper's design space, at a number of FLOPs."
    dry_run = "check the arguments and say what would be written"
    part = _add(commands, draw_sample, "sample", about, _SAMPLE, dry_run=dry_run)
    part.add_argument("--flops", required=True, help="multiply-adds at 224x224: 400MF, 1.6GF, ...")
    part.add_argument(
        "--n", type=int, default=500, help="number of networks (default: %(default)s)"
    )
    part.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    limits = "%(choices)s: within section 4's limits or not (%(default)s)"
    spaces = ("constrained", "regnet")
    part.add_argument("--space", choices=spaces, default=spaces[0], help=limits)
    _add_family(part)
    part.add_argument(
        "--tolerance", type=float, default=0.05, help="relative, of --flops (default: %(default)s)"
    )
    part.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def _add_pick(commands) -> None:
    about = "Measures this machine and shows which backbones are worth their time."
    part = _add(commands, pick, "pick", about, _PICK, dry_run="say what would be measured")
    part.add_argument(
        "--budget-ms", type=float, required=True, help="milliseconds for the pass of an image"
    )
    part.add_argument("--size", default="800x1216", help="HxW of the image (default: %(default)s)")
    about = f"{_ARCH}, or a folder of them (default: the 24 published ones)"
    part.add_argument("--candidates", nargs="+", default=[], metavar="ARCH|DIR", help=about)
    part.add_argument("--train", action="store_true", help="time a training step's pass")
    part.add_argument(
        "--rounds", type=int, default=9, help="measurements of each network (default: %(default)s)"
    )
    part.add_argument("--device", default="", help="cpu or cuda (default: cuda, if there is one)")
    _add_output(part, "the frontier")


def _add_edf(commands) -> None:
    about = "Compares design spaces by quick trainings on the built-in shapes; resumes if stopped."
    part = _add(commands, compare, "edf", about, _EDF, dry_run="say what would be trained")
    spaces = dict(nargs="+", choices=SPACES, metavar="SPACE", help=", ".join(SPACES))
    part.add_argument("--spaces", default=["anynet_a", "constrained"], **spaces)
    part.add_argument(
        "--n", type=int, default=24, help="networks of each space (default: %(default)s)"
    )
    part.add_argument(
        "--flops", default="100MF", help="multiply-adds at 224x224 (default: %(default)s)"
    )
    _add_family(part)
    plan = study.Plan
    part.add_argument(
        "--steps",
        type=int,
        default=plan.steps,
        help="steps of each training (default: %(default)s)",
    )
    part.add_argument(
        "--batch-size",
        type=int,
        default=plan.batch_size,
        help="crops in a step (default: %(default)s)",
    )
    part.add_argument(
        "--lr", type=float, default=plan.lr, help="highest learning rate (default: %(default)s)"
    )
    part.add_argument("--seed", type=int, default=plan.seed, help="default: %(default)s")
    part.add_argument("--output", type=Path, required=True, metavar="DIR")


def _add_family(part: ToolParser) -> None:
    part.add_argument("--family", choices="XY", default="X", help="Y has squeeze-and-excitation")


def _add_output(part: ToolParser, drawn: str) -> None:
    part.add_argument("--plot", type=Path, metavar="FILE.png", help=f"draw {drawn}")
    part.add_overwrite("a FILE.png that exists")
    part.add_json()


def describe(args) -> None:
    with bad_input(args.verbose):
        size = arguments.size(args.size)
        archs = arguments.archs(args.archs)
        check_plot(args)
    if args.json:
        found = {name: describing.facts(arch, size) for name, arch in archs.items()}
        print(json.dumps(found, indent=1))
    else:
        print("\n\n".join(describing.text(name, arch, size) for name, arch in archs.items()))
    write_plot(args, lambda: plots.widths(archs))


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
        bar = partial(progress, desc="networks found")
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
        check_plot(args)
    if args.dry_run:
        print(f"Would time the {measurement.what} ({measurement.where}) of", end=" ")
        print(f"{len(measurement.names)}: {', '.join(measurement.names)}")
        return
    with failure(args.verbose):
        answer = measurement.run(lambda each, word: progress(each, desc=word))
        print(json.dumps(answer.as_dict(), indent=1) if args.json else answer.text())
    write_plot(args, lambda: plots.frontier(answer))


def compare(args) -> None:
    with bad_input(args.verbose):
        check_folder(args.output)
        same = ("n", "family", "steps", "batch_size", "lr", "seed")
        plan = study.Plan(
            spaces=tuple(args.spaces),
            flops=arguments.flops(args.flops),
            **{name: getattr(args, name) for name in same},
        )
        done = study.load(plan, args.output / "results.json")
    count = {space: len(found) for space, found in done.items()}
    if args.dry_run:
        for key, value in asdict(plan).items():
            print(f"{key}: {value}")
        print(f"Would train {plan.n * len(plan.spaces) - sum(count.values())}; done: {count}")
        return
    try:
        with failure(args.verbose):
            args.output.mkdir(parents=True, exist_ok=True)
            bar = partial(progress, desc="networks trained")
            results = study.run(plan, args.output, bar)
            write_file(args.output / "edf.png", plots.distributions(results, titles(plan)))
    except KeyboardInterrupt:
        print(f"Stopped. The same command continues from here (folder {args.output}).")
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


def check_plot(args) -> None:
    if args.plot:
        if args.plot.suffix.lower() != ".png":
            raise ValueError(f"--plot: {args.plot} does not end in .png")
        check_file(args.plot, "--plot", overwrite=args.overwrite)


def write_plot(args, make) -> None:
    if args.plot:
        with failure(args.verbose):
            write_file(args.plot, make())
        print(f"Wrote {args.plot}", file=sys.stderr if args.json else sys.stdout)


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    args.work(args)
    return 0
