"""Detectron2's checkpointer, of which no file runs code."""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager

from .reading import read


class SafeCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` that reads every file with `reading.read`, safetensors among them.

    Detectron2's own unpickles a `.pkl`, which runs whatever code the file holds. The keys, the
    endings and the query `?matching_heuristics=True` mean what they mean there.

    Attributes:
        incompatible: what the last load has left out, on either side: `missing_keys`,
            `unexpected_keys`, `incorrect_shapes`.
        meta: what lay beside the tensors in the last file read.
    """

    incompatible: Any = None
    meta: Mapping = MappingProxyType({})

    def _load_file(self, filename: str) -> dict:
        if not filename.endswith((".pkl", ".pyth")):
            return super()._load_file(filename)  # which takes the query into account
        loaded = self._torch_load(filename)
        if filename.endswith(".pyth"):
            author, left_out = "pycls", "num_batches_tracked"
        elif "__author__" in loaded:
            return loaded
        else:
            author, left_out = "Caffe2", "_momentum"
        model = {k: v for k, v in loaded["model"].items() if not k.endswith(left_out)}
        return {"model": model, "__author__": author, "matching_heuristics": True}

    def _load_model(self, checkpoint: dict):
        self.incompatible = super()._load_model(checkpoint)
        return self.incompatible

    def _torch_load(self, f: str) -> dict:
        checkpoint = read(f)
        self.meta = checkpoint.meta
        return {**checkpoint.meta, "model": checkpoint.state}


def local_file(weights: str, key: str, otherwise: str = "") -> str:
    """The file that a path, or an address that Detectron2 takes, stands for.

    Args:
        weights: a path or an address, maybe with Detectron2's query `?matching_heuristics=True`;
            what is remote is fetched into the cache.
        key: the config's key or the command's flag that it was given with, for the message.
        otherwise: what else can be done where it cannot be fetched, for the message.

    Raises:
        FileNotFoundError: naming the key: there is no such file, or it cannot be fetched.
    """
    path = weights.split("?")[0]
    if "://" not in path:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{key}={weights}: there is no such file")
        return path
    try:
        return PathManager.get_local_path(path)
    except Exception as error:
        raise FileNotFoundError(
            f"{key}={weights} cannot be fetched ({error}): download it by hand and give its path"
            + (otherwise and f", or {otherwise}")
        ) from error
