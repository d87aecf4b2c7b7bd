"""Detectron2's checkpointer, which also loads safetensors."""

from detectron2.checkpoint import DetectionCheckpointer

from .reading import read


class SafetensorsCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` that knows one more format: `.safetensors`, as `convert` writes it.

    Detectron2's own hands every ending it does not know to `torch.load`.
    """

    def _load_file(self, filename: str) -> dict:
        if not filename.endswith(".safetensors"):
            return super()._load_file(filename)
        checkpoint = read(filename)
        return {"model": checkpoint.state, **checkpoint.meta}
