"""What a training would do, in a few lines: for --dry-run."""

from detectron2.config import CfgNode
from omegaconf import DictConfig, OmegaConf

from .checkpointer import find_checkpoint


def plan(cfg: DictConfig | CfgNode, args, processes: int) -> str:
    """The data, the steps, the rate, the weights and the processes of a run, a line each.

    Args:
        cfg: a checked config, a LazyConfig or a yacs one.
        args: `eval_only` and `resume` of the command line.
        processes: how many will share the work.

    Raises:
        ValueError: `--resume`, and none of the checkpoints that there are is good.
    """
    what = _yacs(cfg) if isinstance(cfg, CfgNode) else _lazy(cfg)
    batch = what.pop("batch")
    weights = what.pop("weights") or "random"
    newest = args.resume and find_checkpoint(what["output folder"])[0]
    lines = {"weights": f"{newest}, and its step" if newest else weights}
    if args.eval_only:
        lines |= {key: what[key] for key in ("test data", "device", "output folder")}
    else:
        share = f", {batch // processes} in each of {processes} processes" * (processes > 1)
        lines |= what | {"images a step": f"{batch}{share}"}
    lines["it would"] = "evaluate" if args.eval_only else "train"
    return "\n".join(f"{key}: {value}" for key, value in lines.items())


def _lazy(cfg: DictConfig) -> dict:
    train, optimizer = cfg.train, cfg.get("optimizer") or {}
    body = OmegaConf.select(cfg, "model.backbone.bottom_up.arch")
    return {
        "backbone": body
        if isinstance(body, str)
        else OmegaConf.to_container(body)
        if body
        else "?",
        "weights": train.init_checkpoint,
        "training data": OmegaConf.select(cfg, "dataloader.train.dataset.names"),
        "test data": OmegaConf.select(cfg, "dataloader.test.dataset.names"),
        "batch": OmegaConf.select(cfg, "dataloader.train.total_batch_size") or 1,
        "steps": train.max_iter,
        "learning rate": f"{optimizer.get('lr')} at most",
        "evaluation": _every(train.eval_period),
        "checkpoints": _every(train.checkpointer.period),
        "precision": "mixed" if train.amp.enabled else "float32",
        "device": train.device,
        "output folder": train.output_dir,
    }


def _yacs(cfg: CfgNode) -> dict:
    solver = cfg.SOLVER
    return {
        "backbone": cfg.MODEL.REGNETS.ARCH or cfg.MODEL.BACKBONE.NAME,
        "weights": cfg.MODEL.WEIGHTS,
        "training data": ", ".join(cfg.DATASETS.TRAIN),
        "test data": ", ".join(cfg.DATASETS.TEST),
        "batch": solver.IMS_PER_BATCH,
        "steps": solver.MAX_ITER,
        "learning rate": f"{solver.BASE_LR} at most",
        "evaluation": _every(cfg.TEST.EVAL_PERIOD),
        "checkpoints": _every(solver.CHECKPOINT_PERIOD),
        "precision": "mixed" if solver.AMP.ENABLED else "float32",
        "device": cfg.MODEL.DEVICE,
        "output folder": cfg.OUTPUT_DIR,
    }


def _every(period: int) -> str:
    return f"every {period} steps and at the end" if period else "at the end"
