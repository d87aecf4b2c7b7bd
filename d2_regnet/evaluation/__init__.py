"""COCO's metrics, as Detectron2's evaluators."""

from .coco import FastCOCOEvaluator

__all__ = ["FastCOCOEvaluator"]
