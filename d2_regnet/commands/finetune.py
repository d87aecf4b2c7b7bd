"""Trains a detector of your own classes from a trained one; see docs/guides/finetune.md."""

import argparse
import logging
import signal

from d2_regnet.data.formats import FORMATS, UNLABELLED
from d2_regnet.finetune import Job, prepare, resumed, run
from d2_regnet.model_zoo.loading import run_weights
from d2_regnet.report.runs import Run, read_runs
from d2_regnet.utils.cli import ToolParser, bad_input, failure

_EXAMPLES = """
A data set in COCO's format; what is planned is printed first:
    $ %(prog)s --train train/ train.json --val val/ val.json \\
        --model mask_rcnn_regnetx_400mf_fpn_3x --output output/mine

YOLO's folders; without --val, a fifth of the images is set apart for the evaluation:
    $ %(prog)s --train images/ labels/ --model faster_rcnn_regnetx_400mf_fpn_3x --output output/mine

The plan alone; half the steps; resuming after an interruption:
    $ %(prog)s --train train/ train.json --model NAME --output output/mine --dry-run
    $ %(prog)s --train train/ train.json --model NAME --output output/mine train.max_iter=500
    $ %(prog)s --resume --output output/mine
"""


def argument_parser() -> argparse.ArgumentParser:
    parser = ToolParser(
        __doc__, _EXAMPLES, prog="d2-regnet finetune", dry_run="print the plan and write nothing"
    )
    parser.add_argument(
        "--train",
        nargs=2,
        metavar=("IMAGES", "ANN"),
        help="folder of images; COCO's JSON file, or the folder of the annotations",
    )
    parser.add_argument(
        "--val",
        nargs=2,
        metavar=("IMAGES", "ANN"),
        help="the same, to evaluate on (default: a share of --train)",
    )
    parser.add_argument(
        "--val-share",
        type=float,
        default=0.2,
        metavar="S",
        help="share of --train to evaluate on if there is no --val (default: %(default)s)",
    )
    parser.add_formats("--train and --val", FORMATS, UNLABELLED)
    parser.add_argument("--model", metavar="MODEL", help="a model's name, a LazyConfig, or a run")
    parser.add_argument(
        "--weights",
        metavar="PATH",
        help="a checkpoint, or `none` for random values (default: the model's own)",
    )
    parser.add_argument(
        "--crowd-as-objects",
        action="store_true",
        help="train on crowd regions too; CVAT exports masks as crowds",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="weights may lack a part of the backbone"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--short-edge",
        type=int,
        metavar="PX",
        help="resize images to this short edge (default: the model's)",
    )
    parser.add_argument(
        "--fit-anchors", action="store_true", help="anchors that suit the boxes of --train"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of everything random (default: %(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="resume the run in --output")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser


def plan(args: argparse.Namespace) -> Job:
    if args.resume:
        if args.train or args.val or args.model or args.weights:
            raise ValueError("--resume takes data, model and weights from the run in --output")
        return resumed(args.output, args.opts)
    for flag in ("train", "model"):
        if not getattr(args, flag):
            raise ValueError(f"--{flag} is missing (or --resume, to continue a run)")
    return prepare(
        train=args.train,
        val=args.val,
        model=args.model,
        output=args.output,
        weights=args.weights,
        format=args.format,
        unlabelled=args.unlabelled,
        val_share=args.val_share,
        short_edge=args.short_edge,
        fit_anchors=args.fit_anchors,
        seed=args.seed,
        overrides=args.opts,
        fetch=not args.dry_run,
        allow_missing=args.allow_missing,
        crowds=args.crowd_as_objects,
    )


def summary(results: dict, run: Run) -> str:
    """The last evaluation, a line a task, with the run's best where that is another."""
    titles = {"bbox": "box", "segm": "mask"}
    lines = []
    for task, metrics in results.items():
        best, step = run.best_ap(task)
        better = f"; best AP {best:.1f} at step {step}" if best > metrics["AP"] else ""
        lines.append(
            f"{titles.get(task, task)} AP {metrics['AP']:.1f}, AP50 {metrics['AP50']:.1f}, "
            f"AP75 {metrics['AP75']:.1f}{better}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    for name in ("fvcore", "torch", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with bad_input(args.verbose):
        job = plan(args)
        print("\n".join(job.lines), flush=True)
        if args.dry_run:
            return 0
        model = job.check()
    try:
        with failure(args.verbose):
            results = run(job, model)
    except KeyboardInterrupt as stop:  # also `Interrupted`, which knows its signal
        again = f"d2-regnet finetune --resume --output {args.output}"
        print(f"Stopped. `{again}` continues it.")
        return 128 + getattr(stop, "signum", signal.SIGINT)
    folder = job.output
    print(f"""{summary(results, read_runs([folder])[0])}
  {folder}/report/report.html  curves, AP by class, sample predictions
  {folder}/images              ground truth, and what the last evaluation found beside it
  {run_weights(folder)}      the weights; {folder}/config.yaml trains them again""")
    return 0
