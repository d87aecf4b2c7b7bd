"""Makes one HTML page and PNG curves of training runs; see docs/guides/report.md."""

import logging
from pathlib import Path

from d2_regnet.report import Report
from d2_regnet.utils.cli import ToolParser, bad_input, failure
from d2_regnet.utils.files import check_folder

_EXAMPLES = """
One run; the page is output/demo/report/report.html:
    $ %(prog)s output/demo

Two runs on one page, with the published AP of a model:
    $ %(prog)s output/a output/b --output output/a_and_b --model mask_rcnn_regnetx_3.2gf_fpn_1x
"""


def argument_parser() -> ToolParser:
    parser = ToolParser(
        __doc__, _EXAMPLES, prog="d2-regnet report", dry_run="read the runs, write nothing"
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="OUTPUT_DIR", help="a run's train.output_dir"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="default: report/ in the first OUTPUT_DIR"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="published model to compare with (default: the one whose settings the run has)",
    )
    parser.add_argument(
        "--samples", type=int, metavar="N", help="run the newest checkpoint on N test images"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with bad_input(args.verbose):
        report = Report(args.folders, model=args.model, samples=args.samples)
        output = args.output or args.folders[0] / "report"
        check_folder(output)
    for run in report.runs:
        model = report.models.get(run.name)
        print(f"{run.name}: {run.steps} steps" + (f", compared with {model}" if model else ""))
    if args.dry_run:
        print(f"Would write the report to {output}")
        return 0
    with failure(args.verbose):
        page, *curves = report.write(output)
    print(f"Wrote {page} and {len(curves)} curves beside it")
    return 0
