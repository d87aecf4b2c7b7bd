#!/usr/bin/env python
"""Trains or evaluates the YAML form of a recipe: Detectron2's tools/train_net.py with RegNets.

The flags, and KEY VALUE overrides behind them, are Detectron2's; the training is that of
tools/lazyconfig_train_net.py, see docs/TRAINING.md.
"""

from d2_regnet.cli import bad_input, failure
from d2_regnet.engine.hooks import exit_on_signal
from d2_regnet.engine.launch import argument_parser, check_processes, launch
from d2_regnet.engine.logs import job_logging
from d2_regnet.engine.plan import plan
from d2_regnet.engine.yacs_config import check_yaml, find_yaml, load_yaml
from d2_regnet.engine.yacs_trainer import YacsTrainer

_EXAMPLES = """
Train a row on 8 GPUs, and go on after an interruption:
    $ %(prog)s --config-file mask_rcnn_regnetx_400mf_fpn_3x.yaml --num-gpus 8
    $ %(prog)s --config-file mask_rcnn_regnetx_400mf_fpn_3x.yaml --num-gpus 8 --resume

Evaluate weights on the CPU:
    $ %(prog)s --config-file FILE --eval-only MODEL.WEIGHTS model.pth MODEL.DEVICE cpu
"""


def work(args) -> None:
    """One process's part."""
    cfg = load_yaml(args.config_file, args.opts)
    with job_logging(cfg, args):
        if args.eval_only:
            YacsTrainer.evaluate(cfg, resume=args.resume)
        else:
            trainer = YacsTrainer(cfg)
            trainer.resume_or_load(resume=args.resume)
            trainer.train()


def main(argv: list[str] | None = None) -> None:
    args = argument_parser(__doc__, _EXAMPLES).parse_args(argv)
    with exit_on_signal():
        with bad_input(args.verbose):
            args.config_file = find_yaml(args.config_file)
            cfg = load_yaml(args.config_file, args.opts)
            processes = check_processes(args, cfg.MODEL.DEVICE)
            check_yaml(cfg, eval_only=args.eval_only, resume=args.resume, processes=processes)
            if args.dry_run:
                print(plan(cfg, args, processes))
                return
        with failure(args.verbose):
            launch(work, args, cfg.MODEL.DEVICE)


if __name__ == "__main__":
    main()
