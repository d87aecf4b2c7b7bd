"""Detectron2's checkpointer, which also loads safetensors."""

from detectron2.checkpoint import DetectionCheckpointer

from .reading import read


class SafetensorsCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` that knows one more format: `.safetensors`, as `convert` writes it.

    Detectron2's own hands every ending it does not know to `torch.load`.

    Attributes:
        incompatible: what the last load has left out, on either side: `missing_keys`,
            `unexpected_keys`, `incorrect_shapes`.
    """

    incompatible = None

    def _load_file(self, filename: str) -> dict:
        if not filename.endswith(".safetensors"):
            return super()._load_file(filename)
        checkpoint = read(filename)
        return {"model": checkpoint.state, **checkpoint.meta}

    def _load_model(self, checkpoint: dict):
        self.incompatible = super()._load_model(checkpoint)
        return self.incompatible
