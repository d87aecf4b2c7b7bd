"""Runs a batch again whose losses or gradients were not finite; see docs/guides/train.md."""

import os

from tabulate import tabulate

from d2_regnet.engine.non_finite import pictures
from d2_regnet.engine.replay import Replay, inexact, load_model, read_batch, replay, same
from d2_regnet.utils.cli import ToolParser, bad_input, failure

_EXAMPLES = """
A batch that a training saved, with its own config and weights:
    $ %(prog)s output/non_finite/step_0000123_rank0.pth

The same images and random numbers with other weights:
    $ %(prog)s output/non_finite/step_0000123_rank0.pth --weights output/model_0000099.pth
"""
_LARGEST = 10


def argument_parser() -> ToolParser:
    parser = ToolParser(
        __doc__,
        _EXAMPLES,
        prog="d2-regnet replay",
        dry_run="read the batch and build its model, but do not run it",
    )
    parser.add_argument("file", metavar="FILE", help="a saved batch; open only your own")
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="config of the training (default: its own config.yaml)",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="a checkpoint (default: the weights saved with the batch)"
    )
    return parser


def describe(saved: dict) -> None:
    precision = saved["precision"] or "float32"
    processes = saved["processes"]
    part = f", process {saved['rank']} of {processes}" * (processes > 1)
    print(f"Step {saved['step']}, learning rate {saved['lr']:.4g}, {precision}{part}")
    print(f"Images: {', '.join(pictures(saved['batch']))}")


def show(saved: dict, result: Replay, own_weights: bool, why_not: str) -> None:
    if result.error:
        print(f"The model stops: {result.error}")
    was = saved["losses"]
    rows = [(name, was.get(name), value) for name, value in result.losses.items()]
    if rows:
        print(tabulate(rows, headers=("loss", "in training", "now"), floatfmt=".9g"))
    if own_weights and why_not:
        print(f"Not the same as in training: {why_not}")
    elif own_weights:
        print(f"Exactly as in training: {'yes' if same(was, result.losses) else 'no'}")
    gradients = result.gradients
    if gradients:
        rows = sorted(gradients.items(), key=lambda row: (row[1] == row[1], -row[1]))[:_LARGEST]
        part = " of this process" * (saved["processes"] > 1)  # training took the mean over them
        print(f"\nThe largest of {len(gradients)} gradients{part}, NaN first:")
        print(tabulate(rows, headers=("parameter", "norm"), floatfmt=".4g"))
    print(f"\nFirst output that is not finite: {result.module or 'none'}")


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    with bad_input(args.verbose):
        saved = read_batch(args.file)
        run = os.path.dirname(os.path.dirname(os.path.abspath(args.file)))
        config = args.config_file or os.path.join(run, "config.yaml")
        model = load_model(config, saved, args.weights or "")
    describe(saved)
    if args.dry_run:
        print(f"Would run it with {config} and the weights of {args.weights or 'that step'}")
        return 0
    with failure(args.verbose):
        show(saved, replay(model, saved), not args.weights, inexact(model, saved))
    return 0
