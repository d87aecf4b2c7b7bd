#!/usr/bin/env python
"""Makes one HTML page and PNG curves of training runs, from their folders; see docs/REPORT.md."""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

if __name__ == "__main__":
    # Deprecations that importing Detectron2 sets off and its user can do nothing about.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated|torch.meshgrid")

from d2_regnet.cli import bad_input
from d2_regnet.report import Report

_EXAMPLES = """
Examples:

One run; the page is output/demo/report/report.html:
    $ %(prog)s output/demo

Two runs on one page, with the published AP of a row:
    $ %(prog)s output/a output/b --output output/a_and_b --row mask_rcnn_regnetx_3.2gf_fpn_1x
"""


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="OUTPUT_DIR", help="a run's train.output_dir"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="default: report/ in the first OUTPUT_DIR"
    )
    parser.add_argument(
        "--row", metavar="NAME", help="published row to compare with (default: the config's own)"
    )
    parser.add_argument(
        "--samples", type=int, metavar="N", help="run the newest checkpoint on N test pictures"
    )
    parser.add_argument("--verbose", action="store_true", help="show where bad input was found")
    return parser


def check_output(folder: Path) -> None:
    """That the folder is there, or can be made, and can be written to."""
    there = next(each for each in [folder, *folder.absolute().parents] if each.exists())
    if not there.is_dir():
        raise ValueError(f"--output: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"--output: nothing can be written to {there}")


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with bad_input(args.verbose):
        report = Report(args.folders, row=args.row, samples=args.samples)
        output = args.output or args.folders[0] / "report"
        check_output(output)
    page, *curves = report.write(output)
    for run in report.runs:
        row = report.rows.get(run.name)
        print(f"{run.name}: {run.steps} steps" + (f", row {row}" if row else ""))
    print(f"Wrote {page} and {len(curves)} curves beside it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
