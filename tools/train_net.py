#!/usr/bin/env python
"""Trains and evaluates the YAML form of a recipe: Detectron2's tools/train_net.py with RegNets.

    python tools/train_net.py --config-file mask_rcnn_regnetx_400mf_fpn_3x.yaml --num-gpus 8

The flags, and KEY VALUE overrides behind them, are Detectron2's.
"""

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch

from d2_regnet.cli import bad_input
from d2_regnet.engine.yacs_trainer import YacsTrainer, find_yaml, load_yaml


def main(args, cfg: CfgNode):
    default_setup(cfg, args)
    if args.eval_only:
        model = YacsTrainer.build_model(cfg)
        DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        return YacsTrainer.test(cfg, model)
    trainer = YacsTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    with bad_input():
        args.config_file = find_yaml(args.config_file)
        cfg = load_yaml(args.config_file, args.opts)
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args, cfg),
    )
