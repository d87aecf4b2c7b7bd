"""Detectron2's `DefaultPredictor`, of which no checkpoint runs code."""

from detectron2 import engine
from detectron2.config import CfgNode

from d2_regnet.checkpoint.loading import SafeCheckpointer


class DefaultPredictor(engine.DefaultPredictor):
    """Detectron2's in every way, except that `MODEL.WEIGHTS` is read without running code from it.

    Detectron2's own unpickles a `.pkl`, which runs whatever the file asks for. This one refuses
    such a file; use it for weights that you have not made yourself.

    Raises:
        ValueError: the file would run code, is damaged or is not a checkpoint.
    """

    def __init__(self, cfg: CfgNode):
        empty = cfg.clone()
        empty.defrost()
        empty.MODEL.WEIGHTS = ""
        super().__init__(empty)
        self.cfg = cfg.clone()
        SafeCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
