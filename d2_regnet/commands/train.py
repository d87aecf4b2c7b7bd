"""Trains or evaluates a LazyConfig or a yacs config, with Detectron2's own flags."""

import argparse

from detectron2.config import CfgNode

from d2_regnet.engine.checks import check_config
from d2_regnet.engine.dry_run import plan
from d2_regnet.engine.evaluating import run_evaluation
from d2_regnet.engine.hooks import exit_on_signal
from d2_regnet.engine.launch import argument_parser, check_processes, launch
from d2_regnet.engine.logs import job_logging
from d2_regnet.engine.training import run_training
from d2_regnet.engine.yacs_checks import check_yaml
from d2_regnet.engine.yacs_trainer import YacsTrainer
from d2_regnet.model_zoo.loading import find_config, find_yaml, load_either
from d2_regnet.utils.cli import bad_input, failure


def main(argv: list[str] | None = None) -> None:
    """Trains, or evaluates, in as many processes as there are to be.

    Args:
        argv: the arguments; default: those of the program.

    Raises:
        SystemExit: with the exit codes that `--help` lists, unless all is done.
    """
    args = argument_parser(__doc__).parse_args(argv)
    with exit_on_signal():
        with bad_input(args.verbose):
            cfg = load_either(args.config_file, args.opts)
            yacs = isinstance(cfg, CfgNode)
            device = cfg.MODEL.DEVICE if yacs else cfg.train.device
            processes = check_processes(args, device)
            check = check_yaml if yacs else check_config
            check(
                cfg,
                eval_only=args.eval_only,
                resume=args.resume,
                processes=processes,
                allow_missing=args.allow_missing,
            )
            if args.dry_run:
                print(plan(cfg, args, processes))
                return
        with failure(args.verbose):
            launch(work, args, device)


def work(args: argparse.Namespace) -> None:
    """One process's part."""
    cfg = load_either(args.config_file, args.opts)
    yacs = isinstance(cfg, CfgNode)
    args.config_file = (find_yaml if yacs else find_config)(args.config_file)  # its text is logged
    with job_logging(cfg, args):
        if yacs and args.eval_only:
            YacsTrainer.evaluate(cfg, resume=args.resume)
        elif yacs:
            trainer = YacsTrainer(cfg)
            trainer.resume_or_load(resume=args.resume)
            trainer.train()
        elif args.eval_only:
            run_evaluation(cfg, resume=args.resume)
        else:
            run_training(cfg, resume=args.resume)
