"""Yacs configs, checked before anything is written."""

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from d2_regnet.data.before_training import check_before_training

from .checkpointer import find_checkpoint
from .checks import check_fit, check_weights, resumable_state
from .record import RunRecord, check_same_shapes

__all__ = ["check_yaml"]


def check_yaml(
    cfg: CfgNode,
    *,
    eval_only: bool = False,
    resume: bool = False,
    processes: int = 1,
    allow_missing: bool = False,
) -> None:
    """Makes sure that a run can be begun, or gone on with; writes nothing.

    Args:
        cfg: as `load_yaml` returns it.
        eval_only, resume, processes, allow_missing: as for `engine.check_config`.

    Raises:
        ValueError: the batch does not divide among the processes, a data set is at fault (see
            `check_before_training`), no checkpoint is good, the newest is of another training, or
            weights leave parts of the model at random.
        FileNotFoundError: a data set's or checkpoint's file is missing.
    """
    batch = cfg.SOLVER.IMS_PER_BATCH
    # Detectron2 adapts the batch to the processes where there is a size of reference.
    if not eval_only and not cfg.SOLVER.REFERENCE_WORLD_SIZE and (batch < 1 or batch % processes):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {batch} does not divide among {processes} process(es); choose "
            "a multiple"
        )
    newest = find_checkpoint(cfg.OUTPUT_DIR)[0] if resume else ""
    weights = newest or check_weights(cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS")
    state = resumable_state(newest, RunRecord(cfg)) if newest and not eval_only else None
    check_before_training(cfg, eval_only=eval_only)
    if eval_only and not weights:
        raise ValueError("--eval-only needs weights: add MODEL.WEIGHTS FILE")
    if not weights:
        return
    on_cpu = cfg.clone()
    on_cpu.defrost()
    on_cpu.MODEL.DEVICE = "cpu"
    model = build_model(on_cpu)
    if state:
        check_same_shapes(state, model)
    else:
        check_fit(model, weights, eval_only, allow_missing)
