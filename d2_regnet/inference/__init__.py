"""From a config and weights to predictions: in Python, drawn, as COCO JSON and as CSV.

predictor = Predictor.from_zoo("mask_rcnn_regnetx_400mf_fpn_3x")
for prediction in predictor(["a.jpg", "b.png"]):
    print(prediction.to_coco())
"""

from .default import DefaultPredictor
from .exported import ExportedPredictor, load_predictor
from .models import find_model
from .optimize import optimize_for_inference
from .prediction import Prediction
from .predictor import Predictor

__all__ = [
    "DefaultPredictor",
    "ExportedPredictor",
    "Prediction",
    "Predictor",
    "find_model",
    "load_predictor",
    "optimize_for_inference",
]
