"""Checkpoints of any published RegNet, for Detectron2."""

from d2_regnet.checkpoint.convert import SOURCES, Report, convert
from d2_regnet.checkpoint.loading import SafetensorsCheckpointer
from d2_regnet.checkpoint.reading import Checkpoint, read

__all__ = ["SOURCES", "Checkpoint", "Report", "SafetensorsCheckpointer", "convert", "read"]
