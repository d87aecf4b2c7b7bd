"""Finds and draws objects in images, videos or a camera's frames; see docs/guides/predict.md."""

import argparse
import logging
import os
from pathlib import Path

from d2_regnet.data.formats.account import Account
from d2_regnet.inference.exported import find_predictor
from d2_regnet.inference.inputs import Source, Stream, find_sources
from d2_regnet.inference.listed import listed_sources, with_category_ids
from d2_regnet.inference.outputs import CSV, JSON, check_targets
from d2_regnet.inference.predictor import THRESHOLD
from d2_regnet.inference.run import predict
from d2_regnet.model_zoo.loading import BEST_WEIGHTS
from d2_regnet.utils.cli import FAILED, ToolParser, bad_input, failure, say
from d2_regnet.utils.dtypes import DTYPES

_EXAMPLES = """
A folder of images with a published model, whose weights are downloaded once:
    $ %(prog)s --model mask_rcnn_regnetx_400mf_fpn_3x photos/ --output output/predicted

People only, with the model that a training left in output/mine:
    $ %(prog)s --model output/mine --classes person --threshold 0.7 'photos/*.jpg' --output found

A video, four frames at a time in half precision; then the first camera, until Ctrl-C:
    $ %(prog)s --model NAME --batch-size 4 --dtype float16 clip.mp4 --output found
    $ %(prog)s --model NAME 0 --output found

The images of a COCO file, under its ids, so that pycocotools can score the predictions:
    $ %(prog)s --model output/mine --data val/ val.json --threshold 0 --output found
"""
_EXIT_CODES = (
    "Exit codes: 0, done; 1, failed, or some inputs could not be read (they are listed, the "
    "others'\npredictions are written); 2, bad input, before anything is written."
)


def argument_parser() -> argparse.ArgumentParser:
    parser = ToolParser(
        __doc__,
        _EXAMPLES,
        prog="d2-regnet predict",
        exit_codes=_EXIT_CODES,
        dry_run="list what would be read and written, and stop",
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="an image, a folder, a glob, a video, an address (http, rtsp), or a camera's number",
    )
    parser.add_argument(
        "--data",
        nargs=2,
        metavar=("IMAGES", "ANN"),
        help="in place of INPUT: the images that a COCO file lists, whose image and category ids "
        f"{JSON} then has",
    )
    parser.add_model("a file of `d2-regnet export`")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder of all that is written"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        metavar="SCORE",
        help="lowest score to keep (default: %(default)s)",
    )
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="the classes to keep (default: all)"
    )
    parser.add_device()
    parser.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="images predicted together (default: %(default)s)",
    )
    parser.add_argument(
        "--max-frames", type=int, metavar="N", help="frames to read of each video or camera"
    )
    parser.add_argument("--no-drawings", action="store_true", help="write JSON and CSV only")
    parser.add_overwrite()
    return parser


def describe(sources: list[Source], args: argparse.Namespace) -> str:
    """What a dry run prints."""
    lines = [f"  {s.name}" + ("" if args.no_drawings else f" -> {s.target}") for s in sources]
    lines.append(f"  all detections -> {args.output / JSON}, {args.output / CSV}")
    return "\n".join([f"{len(sources)} input(s) would be read:", *lines])


def prepare(args: argparse.Namespace) -> tuple[list[Source], list[dict]]:
    """Everything that can be known to be wrong before the model is built.

    Returns:
        What to predict on, and the categories of `--data`.
    """
    if args.max_frames is not None and args.max_frames < 1:
        raise ValueError(f"--max-frames must be at least 1, not {args.max_frames}")
    if args.data and args.inputs:
        raise ValueError(f"--data names the images: {args.inputs[0]} cannot be predicted as well")
    account, categories = Account(), []
    if args.data:
        sources, categories, lines = listed_sources(*args.data, args.output)
    else:
        sources = find_sources(args.inputs, args.output, account)
        lines = account.lines()
    for line in lines:
        say(line)
    check_targets([] if args.no_drawings else sources, args.output, args.overwrite)
    for source in sources:
        if isinstance(source, Stream):
            source.open()
    if not any(not s.local or Path(s.name).is_file() for s in sources):
        raise FileNotFoundError(f"there is no file {sources[0].name}")
    return sources, categories


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    if not args.verbose:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # none
        for name in ("fvcore", "torch"):
            logging.getLogger(name).setLevel(logging.ERROR)
    with bad_input(args.verbose):
        sources, categories = prepare(args)
        build, _, weights = find_predictor(args.model, args.weights)
        if args.weights is None and weights.endswith(BEST_WEIGHTS):
            say(f"{args.model}: its best weights, {weights}")
        if args.dry_run:
            print(describe(sources, args))
            return 0
        predictor = build(
            threshold=args.threshold,
            classes=args.classes,
            batch_size=args.batch_size,
            device=args.device,
            dtype=DTYPES.get(args.dtype),
        )
        if args.data:
            predictor.metadata = with_category_ids(predictor.metadata, categories, args.data[1])
    with failure(args.verbose):
        results, unread = predict(
            predictor,
            sources,
            args.output,
            draw=not args.no_drawings,
            max_frames=args.max_frames,
        )
    images, detections = results.counts
    where = args.output if images else "nothing was written"
    print(f"{detections} detection(s) in {images} image(s): {where}")
    if unread:
        say(f"{len(unread)} input(s) could not be read:")
        for name, reason in unread.items():
            say(f"  {name}: {reason}")
        return FAILED
    return 0
