"""Trains or evaluates a LazyConfig or a yacs config, with Detectron2's own flags."""

import argparse
import functools

from detectron2.config import CfgNode
from omegaconf import DictConfig

from d2_regnet.engine.checks import Checked, check_config
from d2_regnet.engine.dry_run import plan
from d2_regnet.engine.evaluating import load_weights, run_evaluation
from d2_regnet.engine.hooks import exit_on_signal
from d2_regnet.engine.launch import argument_parser, check_processes, launch, starts_processes
from d2_regnet.engine.logs import job_logging
from d2_regnet.engine.training import run_training
from d2_regnet.engine.yacs_trainer import YacsTrainer
from d2_regnet.model_zoo.loading import find_config, load_any, trained_weights
from d2_regnet.model_zoo.settings import key_of, setting
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
            cfg = load(args)
            device = setting(cfg, "device")
            processes = check_processes(args, device)
            checked = check_config(
                cfg,
                eval_only=args.eval_only,
                resume=args.resume,
                processes=processes,
                allow_missing=args.allow_missing,
            )
            if args.dry_run:
                print(plan(cfg, args, processes))
                return
        work = run if starts_processes(args) else functools.partial(run, cfg=cfg, checked=checked)
        with failure(args.verbose):
            launch(work, args, device)


def load(args: argparse.Namespace) -> DictConfig | CfgNode:
    """The config that the command line asks for.

    Evaluation is of trained weights: those that are given, else those that belong to the config's
    run or to the model of the zoo (`loading.trained_weights`), else the config's own.
    """
    cfg = load_any(args.config_file, args.opts)
    key = key_of(cfg, "weights")
    given = any(each.lstrip("+").partition("=")[0] == key for each in args.opts)
    if args.eval_only and not given and (weights := trained_weights(args.config_file)):
        if isinstance(cfg, CfgNode):
            cfg.defrost()
            cfg.MODEL.WEIGHTS = weights
            cfg.freeze()
        else:
            cfg.train.init_checkpoint = weights
    return cfg


def run(
    args: argparse.Namespace,
    cfg: DictConfig | CfgNode | None = None,
    checked: Checked | None = None,
) -> None:
    """One process's part; what the first process has loaded and built is not passed to others."""
    cfg = load(args) if cfg is None else cfg
    args.config_file = find_config(args.config_file)  # its text is logged
    with job_logging(cfg, args):
        if isinstance(cfg, DictConfig):
            if args.eval_only:
                run_evaluation(cfg, load_weights(cfg, checked, resume=args.resume))
            else:
                run_training(cfg, checked, resume=args.resume)
        elif args.eval_only:
            YacsTrainer.evaluate(cfg, checked, resume=args.resume)
        else:
            trainer = YacsTrainer(cfg, checked)
            trainer.resume_or_load(resume=args.resume)
            trainer.train()
