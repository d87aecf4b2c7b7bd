#!/usr/bin/env python
"""Trains or evaluates a LazyConfig, with Detectron2's own flags; see docs/TRAINING.md."""

import signal
import sys
import warnings

if __name__ == "__main__":
    # Deprecations that importing Detectron2 sets off and its user can do nothing about.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

from d2_regnet.cli import bad_input
from d2_regnet.engine import check_config, load_config
from d2_regnet.engine.config import find_config
from d2_regnet.engine.launch import argument_parser, check_processes, launch
from d2_regnet.engine.trainer import job_logging, run_evaluation, run_training


def work(args) -> None:
    """One process's part."""
    cfg = load_config(args.config_file, args.opts)
    args.config_file = find_config(args.config_file)  # whose text is logged
    with job_logging(cfg, args):
        if args.eval_only:
            run_evaluation(cfg, resume=args.resume)
        else:
            run_training(cfg, resume=args.resume)


def main(argv: list[str] | None = None) -> None:
    args = argument_parser().parse_args(argv)
    try:
        with bad_input(args.verbose):
            cfg = load_config(args.config_file, args.opts)
            processes = check_processes(args, cfg.train.device)
            check_config(cfg, eval_only=args.eval_only, resume=args.resume, processes=processes)
        launch(work, args, cfg.train.device)
    except KeyboardInterrupt as stop:  # also `Interrupted`, which knows its signal
        sys.exit(128 + getattr(stop, "signum", signal.SIGINT))


if __name__ == "__main__":
    main()
