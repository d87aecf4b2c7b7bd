"""Where a run logs to."""

import argparse
import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

__all__ = ["job_logging"]


@contextmanager
def job_logging(
    cfg: DictConfig | CfgNode, args: argparse.Namespace, console: bool = True
) -> Iterator[None]:
    """Detectron2's `default_setup`: the output folder, log.txt, config.yaml and the seed.

    The loggers are as before at the end, so that another run logs to its own folder only.
    """
    folder = cfg.OUTPUT_DIR if isinstance(cfg, CfgNode) else cfg.train.output_dir
    logs = [logging.getLogger(name) for name in ("detectron2", "fvcore", "d2_regnet")]
    before = [(log, list(log.handlers), log.propagate) for log in logs]
    out = sys.stdout
    with redirect_stdout(out if console else io.StringIO()) as stream:
        setup_logger(folder, comm.get_rank(), name="d2_regnet")
        default_setup(cfg, args)
    added = [(log, h) for log, former, _ in before for h in log.handlers if h not in former]
    for _, handler in added:
        if stream is not out and handler.stream is stream:
            handler.setStream(out)
            handler.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for log, handler in added:
            log.removeHandler(handler)
        for log, _, propagate in before:
            log.propagate = propagate
        setup_logger.cache_clear()  # else it would believe that they are still there
