#!/usr/bin/env python
"""Does faults to small trainings, checks the outcomes, and writes docs/results/reliability.md."""

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads cannot be forked safely

from tqdm import tqdm

from d2_regnet.utils.cli import ToolParser, bad_input, failure
from d2_regnet.utils.files import check_folder, whole_file
from tests.reliability import PARTS, Scale
from tests.reliability.results import machine, replace_section, table, totals

_EXAMPLES = """
Everything, and the tables of docs/results/reliability.md (also: make reliability):
    $ %(prog)s

One part; the others' tables stay:
    $ %(prog)s --only kills

A twentieth of each part, without a document:
    $ %(prog)s --share 0.05 --report ''
"""
_REPORT = Path(__file__).resolve().parents[2] / "docs" / "results" / "reliability.md"
_EXIT_CODES = "Exit codes: 0, all as promised; 1, something was not; 2, bad input."


def argument_parser() -> ToolParser:
    parser = ToolParser(
        __doc__,
        _EXAMPLES,
        prog="python -m tests.reliability",
        exit_codes=_EXIT_CODES,
        dry_run="say what would be run and written",
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--share", type=float, default=1, help="of all faults (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random ones (%(default)s)")
    parser.add_argument("--report", default=str(_REPORT), help="the document; '' for none")
    parser.add_argument("--folder", help="for all files; by default a temporary one")
    return parser


def run_part(name: str, scale: Scale) -> list:
    began, results = time.perf_counter(), []
    for result in tqdm(PARTS[name](scale), desc=name, unit="fault", disable=None):
        results.append(result)
        if not result.good:
            tqdm.write(f"{result.fault}: not as promised: {result.detail}")
    seconds = time.perf_counter() - began
    bad = sum(not result.good for result in results)
    print(f"{name}: {len(results)} faults, {bad} not as promised, {seconds:.0f} s", flush=True)
    return results


def write_report(path: Path, part: str, content: str) -> None:
    text = replace_section(path.read_text(), part, content)
    count, bad = totals(text)
    text = replace_section(
        text, "total", f"{count} faults, of which {bad} did not end as promised. On {machine()}."
    )
    with whole_file(path) as file:
        file.write(text.encode())


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    with bad_input(args.verbose):
        if not 0 < args.share <= 1:
            raise ValueError("--share is above 0 and at most 1")
        if args.report and not os.path.isfile(args.report):
            raise FileNotFoundError(f"--report: there is no {args.report}")
        if args.folder:
            check_folder(args.folder, "--folder")
    if args.dry_run:
        parts = ", ".join(args.only or PARTS)
        print(f"Would do {args.share:.0%} of {parts}, and write {args.report or 'no document'}")
        return 0
    bad = 0
    passing = contextlib.nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory()
    with failure(args.verbose), passing as folder:
        os.environ.setdefault("D2_REGNET_CACHE", str(Path(folder, "cache")))
        for name in args.only or PARTS:
            part = Path(folder, name)
            part.mkdir(parents=True)
            results = run_part(name, Scale(args.share, args.seed, part))
            bad += sum(not result.good for result in results)
            if args.report:
                write_report(Path(args.report), name, table(results))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
