"""What a training would do, in a few lines: for --dry-run."""

from detectron2.config import CfgNode
from omegaconf import DictConfig

from d2_regnet.model_zoo.settings import setting

from .checkpointer import find_checkpoint
from .options import training_options


def plan(cfg: DictConfig | CfgNode, args, processes: int) -> str:
    """The data, the steps, the learning rate, the weights and the processes of a run, a line each.

    Args:
        cfg: a checked config, a LazyConfig or a yacs one.
        args: `eval_only` and `resume` of the command line.
        processes: how many will share the work.

    Raises:
        ValueError: `--resume`, and none of the checkpoints that there are is good.
    """
    newest = args.resume and find_checkpoint(setting(cfg, "output folder"))[0]
    weights = setting(cfg, "weights") or "random"
    lines = {"weights": f"{newest}, and its step" if newest else weights}
    if args.eval_only:
        lines |= {name: _text(cfg, name) for name in ("test data", "device", "output folder")}
    else:
        batch = setting(cfg, "batch size") or 1
        share = f", {batch // processes} in each of {processes} processes" * (processes > 1)
        several = training_options(cfg).accumulate
        share = f"{share}, {several} times" if several > 1 else share
        lines |= {
            "backbone": _text(cfg, "backbone"),
            "training data": _text(cfg, "training data"),
            "test data": _text(cfg, "test data"),
            "steps": _text(cfg, "steps"),
            "learning rate": f"{setting(cfg, 'learning rate')} at most",
            "evaluation": _every(setting(cfg, "evaluation")),
            "checkpoints": _every(setting(cfg, "checkpoints")),
            "precision": "mixed" if setting(cfg, "mixed precision") else "float32",
            "device": _text(cfg, "device"),
            "output folder": _text(cfg, "output folder"),
            "images a step": f"{batch * several}: {batch}{share}"
            if several > 1
            else f"{batch}{share}",
        }
    lines["it would"] = "evaluate" if args.eval_only else "train"
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def _text(cfg: DictConfig | CfgNode, name: str) -> str:
    value = setting(cfg, name)
    if name == "backbone" and not value and isinstance(cfg, CfgNode):
        return cfg.MODEL.BACKBONE.NAME
    return ", ".join(value) if isinstance(value, list) else str("?" if value is None else value)


def _every(period: int) -> str:
    return f"every {period} steps and at the end" if period else "at the end"
