"""Writes a converted checkpoint whole or not at all."""

import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from d2_regnet.utils.files import whole_file

State = Mapping[str, torch.Tensor]


def check_destination(src: str | os.PathLike, dst: str | os.PathLike, overwrite: bool) -> None:
    """That `dst` can be written, before any work is done.

    Raises:
        ValueError: an unknown ending, or `dst` is `src` or a folder.
        FileNotFoundError: the folder of `dst` does not exist.
        FileExistsError: `dst` exists and `overwrite` is false.
    """
    dst = Path(dst)
    if dst.suffix not in _WRITERS:
        raise ValueError(f"{dst}: the name must end in one of {', '.join(_WRITERS)}")
    if not dst.parent.is_dir():
        raise FileNotFoundError(f"{dst}: there is no folder {dst.parent}; create it first")
    if dst.is_dir():
        raise ValueError(f"{dst}: is a folder")
    if dst.exists():
        if os.path.exists(src) and os.path.samefile(src, dst):
            raise ValueError(f"{dst}: is the file to convert; write to another one")
        if not overwrite:
            raise FileExistsError(f"{dst}: exists already; give --overwrite (overwrite=True)")


def write(state: State, metadata: Mapping[str, Any], dst: str | os.PathLike) -> None:
    """Writes tensors and what is to be known about them.

    Args:
        state: names and tensors.
        metadata: plain values; beside the model in `.pth` and `.pkl`, in the header (values that
            are not strings as JSON) in `.safetensors`.
        dst: the file; a temporary one beside it takes its place once it is complete.

    Raises:
        OSError: it could not be written; `dst` is as it was.
    """
    dst = Path(dst)
    state = _compact(state)
    try:
        with whole_file(dst) as file:
            _WRITERS[dst.suffix](state, metadata, file)
    except Exception as error:
        # torch.save hides the reason behind one of its own.
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise OSError(f"{dst}: could not be written ({reason}); nothing was left behind") from error


def _compact(state: State) -> dict[str, torch.Tensor]:
    """The same tensors, none of which shares its memory or is part of something larger."""
    compact, storages = {}, set()
    for name, tensor in state.items():
        tensor = tensor.contiguous()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in storages:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        compact[name] = tensor
    return compact


def _write_pth(state: State, metadata: Mapping[str, Any], file) -> None:
    torch.save({"model": state, "__author__": "d2_regnet", **metadata}, file)


def _write_pkl(state: State, metadata: Mapping[str, Any], file) -> None:
    model = {name: tensor.numpy() for name, tensor in state.items()}
    pickle.dump({"model": model, "__author__": "d2_regnet", **metadata}, file, protocol=4)


def _write_safetensors(state: State, metadata: Mapping[str, Any], file) -> None:
    header = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in metadata.items()
    }
    file.write(safetensors.torch.save(dict(state), {"format": "pt", **header}))


_WRITERS: dict[str, Callable] = {
    ".pth": _write_pth,
    ".safetensors": _write_safetensors,
    ".pkl": _write_pkl,
}
