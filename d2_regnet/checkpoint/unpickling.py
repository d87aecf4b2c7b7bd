"""Unpickling that runs nothing from the file.

Files of `torch.save` are left to torch's own `weights_only` reader, which is told of the classes
that training code is known to leave beside the weights; plain pickles may hold arrays and nothing
else. Whatever else a pickle names is refused, and never imported.
"""

import io
import pickle
import pickletools
import re
from collections import OrderedDict
from typing import Any

import numpy as np
import torch


class Refused(ValueError):
    """A reason that says all there is to say of a file, but for its name."""


class _Inert:
    """Stands in for metadata of a foreign class: takes any pickled state and does nothing."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


# What training code is known to keep beside the weights. None of it is imported or called.
_METADATA = {
    "addict.addict.Dict": OrderedDict,
    "argparse.Namespace": _Inert,
    "builtins.getattr": _Inert,
    "mmcv.utils.config.ConfigDict": OrderedDict,
    "mmengine.config.config.ConfigDict": OrderedDict,
    "mmengine.logging.history_buffer.HistoryBuffer": _Inert,
    "numpy.core.multiarray._reconstruct": _Inert,
    "numpy.core.multiarray.scalar": _Inert,
    "numpy._core.multiarray._reconstruct": _Inert,
    "numpy._core.multiarray.scalar": _Inert,
    "numpy.dtype": _Inert,
    "numpy.ndarray": _Inert,
    "pathlib.PosixPath": _Inert,
    "vissl.config.attr_dict.AttrDict": OrderedDict,
    "vissl.utils.hydra_config.AttrDict": OrderedDict,
}


def load_torch(path: str) -> Any:
    """What `torch.save` wrote to a file, its tensors on the CPU.

    Raises:
        Refused: the file asks to run something.
        Exception: of any kind, if it is damaged.
    """
    stand_ins: list = [(stand_in, name) for name, stand_in in _METADATA.items()]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise Refused(
                f"refused: the file asks to run {found[1].rstrip('.')}. If it is a whole model, "
                "save its weights alone: torch.save(model.state_dict(), FILE)"
            ) from error
        raise


def load_arrays(path: str) -> Any:
    """What a plain pickle of arrays holds; each array is an `Array`.

    Raises:
        Refused: the file asks to run something, or holds an array of something else than numbers.
        Exception: of any kind, if it is damaged.
    """
    with open(path, "rb") as file:
        data = file.read()
    # Walking through the opcodes runs nothing. An index far beyond their number would make the
    # unpickler allocate a table of that size.
    count = highest = 0
    for opcode, argument, _ in pickletools.genops(data):
        count += 1
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            highest = max(highest, argument or 0)
    if highest > count:
        raise Refused("is damaged")
    return _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()


class _ArrayUnpickler(pickle.Unpickler):
    """Builds arrays of numbers, plain values and containers of them, and refuses all else."""

    def find_class(self, module: str, name: str):
        try:
            return _ARRAY_GLOBALS[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise Refused(
                f"refused: the file asks to run {module}.{name}; only arrays are admitted"
            ) from None


class _Dtype:
    """What a pickle says of a type of number."""

    def __init__(self, code: str, *_):
        if not re.fullmatch(r"[<>=|]?[biuf]\d", str(code)):
            raise Refused(f"refused: an array of type {code!r}; only numbers are admitted")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple):
        self.dtype = self.dtype.newbyteorder(state[1])


class Array:
    """What a pickle says of an array. numpy's own would trust it."""

    def __init__(self, *_):
        self.array = np.zeros(0)

    def __setstate__(self, state: tuple):
        _, shape, dtype, is_fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data
        order = "F" if is_fortran else "C"
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _from_buffer(data, dtype: _Dtype, shape: tuple, order: str) -> Array:
    array = Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


_ARRAY_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): Array,
    ("numpy.core.multiarray", "scalar"): _Inert,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _Inert,
    ("numpy", "dtype"): _Dtype,
    ("__builtin__", "bytes"): lambda: b"",  # how no bytes at all are pickled
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
    ("collections", "OrderedDict"): OrderedDict,
}
