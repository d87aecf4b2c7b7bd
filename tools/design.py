#!/usr/bin/env python
"""Describes, samples, times and compares RegNets; see docs/DESIGN_SPACE.md."""

import csv
import io
import json
import logging
import sys
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

import torch
import yaml
from tabulate import tabulate
from tqdm import tqdm

from d2_regnet.archs import RegNetArch
from d2_regnet.cli import ToolParser, bad_input, failure
from d2_regnet.design import arguments, describing, edf, pictures, study
from d2_regnet.design.frontier import badness, frontier
from d2_regnet.design.sampling import SPACES, sample
from d2_regnet.design.timing import body_pass, interleaved, within_reach
from d2_regnet.files import whole_file

_EXAMPLES = """
What a RegNet is made of, and a picture of its widths:
    $ %(prog)s describe RegNetX-3.2GF my_regnet.yaml --picture widths.png

500 networks of 1.6 GF, each in a file that stands for an arch everywhere:
    $ %(prog)s sample --flops 1.6GF --n 500 --output samples

The best body for a time on this machine:
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
    $ python tools/design.py pick --budget-ms 200 --candidates samples/archs
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
    parser = ToolParser(__doc__, _EXAMPLES)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    about = "Prints what networks are made of and what they cost, stage by stage."
    part = commands.add_parser("describe", help=about, description=about, examples=_DESCRIBE)
    part.add_argument("archs", nargs="+", metavar="ARCH", help=_ARCH)
    part.add_argument("--size", default="224", help="HxW of the picture (%(default)s)")
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

    about = "Measures this machine and shows which bodies are worth their time."
    part = commands.add_parser(
        "pick",
        help=about,
        description=about,
        examples=_PICK,
        dry_run="say what would be measured",
    )
    part.add_argument("--budget-ms", type=float, required=True, help="for a picture's pass")
    part.add_argument("--size", default="800x1216", help="HxW of the picture (%(default)s)")
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
    write_picture(args, lambda: pictures.widths(archs))


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
        write_sample(args.output, f"regnet{args.family.lower()}_{args.flops.lower()}", archs)
    print(tabulate(describing.summary(archs), headers="keys", floatfmt=".3g"))
    print(f"\nWrote {args.output}: samples.csv, samples.json, samples.png and archs/*.yaml")


def write_sample(folder: Path, stem: str, archs: list[RegNetArch]) -> None:
    """A table as CSV and JSON, a picture, and a YAML file of each network's own."""
    (folder / "archs").mkdir(parents=True, exist_ok=True)
    rows = []
    for i, arch in enumerate(archs, 1):
        name = f"{stem}_{i:04d}"
        parameters = asdict(arch)
        text = yaml.safe_dump(parameters, sort_keys=False)
        write(folder / "archs" / f"{name}.yaml", text.encode())
        rows.append({"name": name, **parameters, **asdict(arch.complexity())})
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    write(folder / "samples.csv", table.getvalue().encode())
    write(folder / "samples.json", json.dumps(rows, indent=1).encode())
    write(folder / "samples.png", pictures.sampled(archs))


def pick(args) -> None:
    with bad_input(args.verbose):
        size = arguments.size(args.size)
        archs = arguments.archs(args.candidates)
        if not args.budget_ms > 0 or args.rounds < 1:
            raise ValueError("--budget-ms must be above 0 and --rounds at least 1")
        check_picture(args.picture)
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"--device {device}: this machine has no GPU")
    what = f"{'training pass' if args.train else 'forward pass'} of the body at {args.size}"
    where = device if device != "cpu" else f"CPU, {torch.get_num_threads()} thread(s)"
    measure, bad = badness(archs)
    cheap_first = sorted(archs, key=lambda name: archs[name].complexity(size, 0).flops)
    if args.dry_run:
        print(f"Would time the {what} ({where}) of {len(archs)}: {', '.join(cheap_first)}")
        return
    with failure(args.verbose):
        passes, left_out = within_reach(
            (
                (name, partial(body_pass, archs[name], size, device, args.train))
                for name in tqdm(cheap_first, desc="warming up", disable=None)
            ),
            args.budget_ms,
        )
        bar = partial(tqdm, desc="rounds", disable=None)
        timings = interleaved(passes, args.rounds, bar)
        names = list(timings)
        best = frontier([timings[n].median for n in names], [bad[n] for n in names])
        on_frontier = [names[i] for i in best]
        within = [n for n in on_frontier if timings[n].median <= args.budget_ms]
        answer = {
            "what": what,
            "where": where,
            "measure": measure,
            "budget_ms": args.budget_ms,
            "pick": within[-1] if within else None,
            "frontier": on_frontier,
            "timings": {n: asdict(t) | {"badness": bad[n]} for n, t in timings.items()},
            "left_out": left_out,
        }
        print(json.dumps(answer, indent=1) if args.json else pick_text(answer))
        write_picture(
            args,
            lambda: pictures.frontier(
                timings, bad, on_frontier,
                title=f"{what}, {where}", measure=measure, budget_ms=args.budget_ms,
            ),
        )  # fmt: skip


def pick_text(answer: dict) -> str:
    """The measurements, fast ones first, and the answer in a sentence."""
    timings = answer["timings"]
    rows = [
        (
            name,
            timing["median"],
            f"{timing['low']:.1f}–{timing['high']:.1f}",
            timing["badness"],
            "yes" if name in answer["frontier"] else "",
        )
        for name, timing in sorted(timings.items(), key=lambda item: item[1]["median"])
    ]
    headers = ("", "ms, median", "middle half", answer["measure"], "frontier")
    lines = [f"{answer['what']}, {answer['where']}", "", tabulate(rows, headers, floatfmt=".1f")]
    if answer["left_out"]:
        lines.append(
            f"\nNot measured, the first for being far above the budget, the others for having more "
            f"FLOPs than it: {', '.join(answer['left_out'])}"
        )
    budget = f"{answer['budget_ms']:g} ms"
    if answer["pick"]:
        lines.append(f"\nWithin {budget}: {answer['pick']}")
    else:
        fastest = min(timings, key=lambda name: timings[name]["median"])
        needs = timings[fastest]["median"]
        lines.append(f"\nNothing within {budget}: the fastest, {fastest}, takes {needs:.1f} ms")
    return "\n".join(lines)


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
            write(args.output / "edf.png", pictures.distributions(results, titles(plan)))
    except KeyboardInterrupt:
        print(f"Stopped. The same command goes on from here (folder {args.output}).")
        sys.exit(130)
    print(edf_text(plan, results))
    print(f"\nWrote {args.output}: results.json, edf.png")


def titles(plan: study.Plan) -> dict[str, str]:
    return {space: space.replace("anynet_", "AnyNet_").replace("_", " ") for space in plan.spaces}


def edf_text(plan: study.Plan, results: dict) -> str:
    """Mean and best errors of each space, and the differences of means from the first space's."""
    errors = {space: [row["error"] for row in rows] for space, rows in results.items()}
    rows = []
    for space, found in errors.items():
        depths = [row["depth"] for row in results[space]]
        _, low, high = edf.likely_best(depths, found)
        rows.append(
            {
                "space": space,
                "networks": len(found),
                "mean error %": sum(found) / len(found),
                "least": min(found),
                "largest": max(found),
                "best depth likely": f"{low:.0f} to {high:.0f}",
            }
        )
    lines = [tabulate(rows, headers="keys", floatfmt=".1f"), ""]
    first, *others = plan.spaces
    for other in others:
        mean, low, high = edf.mean_difference(errors[other], errors[first])
        lines.append(
            f"mean error of {other} minus that of {first}: {mean:+.1f} points "
            f"(95% of bootstrap draws: {low:+.1f} to {high:+.1f})"
        )
    return "\n".join(lines)


def check_folder(folder: Path) -> None:
    """That a folder can be made there."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--output: {folder} is not a folder")


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


def write(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    args.work(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
