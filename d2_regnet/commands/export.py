"""Writes a whole detector as a file that runs without Detectron2; see docs/guides/export.md."""

import argparse
import logging
import os
from pathlib import Path

from tabulate import tabulate

from d2_regnet.data.images import read_image
from d2_regnet.export import Export, agrees, check, set_limits
from d2_regnet.export.checking import built_in_images
from d2_regnet.export.exporter import DEFAULT_OPSET, FORMATS
from d2_regnet.inference import Predictor, find_model
from d2_regnet.inference.exported import SUFFIXES
from d2_regnet.model_zoo.loading import BEST_WEIGHTS
from d2_regnet.utils.cli import FAILED, ToolParser, bad_input, failure, say
from d2_regnet.utils.files import check_file
from d2_regnet.utils.lazy import import_extra
from d2_regnet.utils.progress import progress

_EXAMPLES = """
A published model, whose weights are downloaded once, as ONNX:
    $ %(prog)s --model mask_rcnn_regnetx_400mf_fpn_3x --format onnx --output mask_rcnn.onnx

The model that a training left in output/mine, compared with the file on two images:
    $ %(prog)s --model output/mine --format torchscript --output mine.pt --check a.jpg b.jpg
"""
_EXIT_CODES = (
    "Exit codes: 0, done; 1, failed, or --check found a difference; 2, bad input, or a format\n"
    "that cannot carry the model, before anything is written."
)

_TITLES = {"onnx": "ONNX", "torchscript": "TorchScript"}
_COLUMNS = "image|eager / file|the same|box IoU ≥|mask IoU ≥|score ±|eager (s)|file (s)|speed"


def argument_parser() -> argparse.ArgumentParser:
    parser = ToolParser(
        __doc__,
        _EXAMPLES,
        prog="d2-regnet export",
        exit_codes=_EXIT_CODES,
        dry_run="load the model, say what would be written, and stop",
    )
    parser.add_model()
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--output", required=True, type=Path, metavar="FILE")
    about = "of ONNX (%(default)s)"
    parser.add_argument("--opset", type=int, default=DEFAULT_OPSET, metavar="N", help=about)
    about = "the lowest score reported (default: the model's own, usually 0.05)"
    parser.add_argument("--score-threshold", type=float, metavar="SCORE", help=about)
    about = "of an image (default: the model's own, usually 100)"
    parser.add_argument("--max-detections", type=int, metavar="N", help=about)
    about = "run the file without Detectron2 and compare; on built-in images if none are given"
    parser.add_argument("--check", nargs="*", metavar="IMAGE", help=about)
    parser.add_overwrite("a FILE that exists")
    return parser


def check_output(args: argparse.Namespace) -> None:
    suffix = SUFFIXES[args.format]
    if args.output.suffix != suffix:
        raise ValueError(
            f"--output {args.output}: a file of {_TITLES[args.format]} ends in {suffix}"
        )
    check_file(args.output, overwrite=args.overwrite)


def prepare(args: argparse.Namespace) -> tuple[Predictor, Export, dict]:
    """Everything that can be known to be wrong before the work begins."""
    check_output(args)
    images = {}
    if args.check is not None:
        for name in filter(os.path.isdir, args.check):
            raise ValueError(f"--check: {name} is a folder; name images, such as {name}/*.jpg")
        images = {name: read_image(name, "RGB") for name in args.check} or built_in_images()
        if args.format == "onnx":
            import_extra("onnxruntime", "export")
    cfg, weights = find_model(args.model, args.weights)
    if args.weights is None and weights.endswith(BEST_WEIGHTS):
        say(f"{args.model}: its best weights, {weights}")
    predictor = Predictor(cfg, weights, device="cpu", threshold=0)
    set_limits(predictor.model, args.score_threshold, args.max_detections)
    return predictor, Export(predictor, args.format, opset=args.opset, name=args.model), images


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    if not args.verbose:
        for name in ("fvcore", "torch.fx"):
            logging.getLogger(name).setLevel(logging.ERROR)
    with bad_input(args.verbose):
        predictor, export, images = prepare(args)
    print(describe(export, args), flush=True)
    if args.dry_run:
        return 0
    with bad_input(args.verbose):  # what a format lacks is found out on the way
        export.write(args.output)
    print(f"Wrote {args.output.stat().st_size / 1e6:.1f} MB")
    if args.check is None:
        return 0
    with failure(args.verbose):
        return compare(predictor, args.output, images)


def describe(export: Export, args: argparse.Namespace) -> str:
    facts = export.metadata
    opset = f" of opset {args.opset}" if args.format == "onnx" else ""
    size = facts["short_edge"] and f"to {facts['short_edge']}, at most {facts['max_size']} pixels"
    return (
        f"{args.output}: {args.model} as {_TITLES[args.format]}{opset}\n"
        f"  {facts['input']}; resized {size or 'not at all'}\n"
        f"  to {', '.join(facts['outputs'])} of {len(facts['class_names'])} classes, scores above "
        f"{facts['score_threshold']}, at most {facts['max_detections']} detections"
    )


def compare(predictor: Predictor, path: Path, images: dict) -> int:
    """Prints how the file's detections compare with the eager model's; the exit code."""
    checks = check(predictor, path, images.values())
    results = list(progress(checks, total=len(images), desc="images"))
    rows = [
        (
            name,
            f"{result.eager} / {result.exported}",
            result.paired,
            f"{result.box_iou:.5f}",
            "-" if result.mask_iou is None else f"{result.mask_iou:.5f}",
            f"{result.score:.1e}",
            f"{result.eager_seconds:.3f}",
            f"{result.exported_seconds:.3f}",
            f"{result.eager_seconds / result.exported_seconds:.2f}",
        )
        for name, result in zip(images, results)
    ]
    print(tabulate(rows, headers=_COLUMNS.split("|"), disable_numparse=True))
    same, found = sum(r.paired for r in results), sum(max(r.eager, r.exported) for r in results)
    if not found:
        print("FAILED: nothing was detected, so nothing compared; give images to --check")
    else:
        print(f"{'ok' if agrees(results) else 'FAILED'}: {same} of {found} detections are the same")
    return 0 if agrees(results) else FAILED
