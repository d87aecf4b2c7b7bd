#!/usr/bin/env python
"""Trains Mask R-CNN RegNetX-200MF on the built-in shapes, evaluates it and draws what it finds.

From scratch, in minutes, on two CPU cores. After Ctrl-C the same command goes on from there.
"""

import logging
import signal
import sys
import warnings
from pathlib import Path

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # torch's and Detectron2's deprecations would hide the progress

from d2_regnet.data.shapes import SPLITS
from d2_regnet.utils.cli import ToolParser, bad_input, failure
from d2_regnet.utils.files import check_folder
from examples import demo

_EXAMPLES = """
About five minutes on two CPU cores:
    $ %(prog)s

Another seed, in another folder:
    $ %(prog)s --seed 1 --output output/other
"""
_EXIT_CODES = (
    "Exit codes: 0, done; 1, failed; 2, bad input, before anything is written; 130, stopped by "
    "Ctrl-C."
)
CONFIG = Path(__file__).parents[2] / "configs" / "mask_rcnn_regnetx_200mf_fpn_shapes.py"


def argument_parser() -> ToolParser:
    parser = ToolParser(
        __doc__,
        _EXAMPLES,
        prog="python -m examples.demo",
        exit_codes=_EXIT_CODES,
        dry_run="check everything and say what would be trained",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the data, the weights, their order")
    parser.add_argument("--output", default="output/demo", type=Path, metavar="FOLDER")
    parser.add_argument("--steps", type=int, help="of training (default: the config's)")
    parser.add_argument("--train-images", type=int, default=SPLITS["train"], metavar="N")
    parser.add_argument("--val-images", type=int, default=SPLITS["val"], metavar="N")
    parser.add_argument("--restart", action="store_true", help="discard what the folder holds")
    return parser


def main(argv: list[str] | None = None) -> None:
    logging.getLogger("torch").setLevel(logging.ERROR)
    args = argument_parser().parse_args(argv)
    folder = args.output
    about = (
        f"Mask R-CNN RegNetX-200MF-FPN from random weights, seed {args.seed}: "
        f"{args.train_images} images to learn from, {args.val_images} to be tested on."
    )
    sizes = {key: vars(args)[key] for key in ("seed", "train_images", "val_images", "steps")}
    try:
        with bad_input(args.verbose):
            check_folder(folder)
            cfg = demo.configure(CONFIG, folder, **sizes)
            if args.dry_run:
                if not args.restart:
                    demo.check_same_run(cfg)
                print(f"Would train in {folder}: {about}")
                print(f"{cfg.train.max_iter} steps of {cfg.dataloader.train.total_batch_size}")
                return
            folder.mkdir(parents=True, exist_ok=True)
            if args.restart:
                demo.discard(folder)
            demo.check_same_run(cfg)
            if demo.is_complete(folder):
                print(f"The run in {folder} is complete; --restart does it again.")
                print(demo.report(folder))
                return
            demo.make_data(cfg)
        print(about, flush=True)
        with failure(args.verbose):
            demo.run(cfg)
    except KeyboardInterrupt as stop:
        print(f"Stopped. The same command goes on from here (folder {folder}).")
        sys.exit(128 + getattr(stop, "signum", signal.SIGINT))
    print(demo.report(folder))


if __name__ == "__main__":
    main()
