"""The command line of tools/lazyconfig_train_net.py, up to the end of the training."""

import argparse

from d2_regnet.cli import bad_input, failure

from .checks import check_config
from .config import find_config, load_config
from .evaluating import run_evaluation
from .hooks import exit_on_signal
from .launch import argument_parser, check_processes, launch
from .logs import job_logging
from .plan import plan
from .training import run_training

_ABOUT = "Trains or evaluates a LazyConfig, with Detectron2's own flags; see docs/TRAINING.md."


def main(argv: list[str] | None = None) -> None:
    """Trains, or evaluates, in as many processes as there are to be.

    Args:
        argv: the arguments; by default those of the program.

    Raises:
        SystemExit: with the exit codes that `--help` lists, unless all is done.
    """
    args = argument_parser(_ABOUT).parse_args(argv)
    with exit_on_signal():
        with bad_input(args.verbose):
            cfg = load_config(args.config_file, args.opts)
            processes = check_processes(args, cfg.train.device)
            check_config(cfg, eval_only=args.eval_only, resume=args.resume, processes=processes)
            if args.dry_run:
                print(plan(cfg, args, processes))
                return
        with failure(args.verbose):
            launch(work, args, cfg.train.device)


def work(args: argparse.Namespace) -> None:
    """One process's part."""
    cfg = load_config(args.config_file, args.opts)
    args.config_file = find_config(args.config_file)  # whose text is logged
    with job_logging(cfg, args):
        if args.eval_only:
            run_evaluation(cfg, resume=args.resume)
        else:
            run_training(cfg, resume=args.resume)
