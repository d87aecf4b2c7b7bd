"""Whole detectors as files that run without Detectron2: ONNX and TorchScript.

predictor = Predictor.from_zoo("mask_rcnn_regnetx_400mf_fpn_3x", device="cpu")
Export(predictor, "onnx").write("mask_rcnn.onnx")
for agreement in check(predictor, "mask_rcnn.onnx", images):
    print(agreement)
"""

from .checking import Agreement, agrees, check
from .exporter import Export, set_limits

__all__ = ["Agreement", "Export", "agrees", "check", "set_limits"]
