"""Opens a checkpoint of any known format without running code from it.

What a file is, is told by its first bytes and not by its name: a zip or legacy file of `torch.save`
(read with `weights_only=True`), safetensors, or a plain pickle of numpy arrays (the format of
Detectron2's and Caffe2's model zoos, read by an unpickler that builds nothing but arrays).
"""

import hashlib
import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors
import torch

from .unpickling import Array, Refused, load_arrays, load_torch


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint file as it was found.

    Attributes:
        path, sha256: of the file, the digest in hex.
        state: names and CPU tensors of the model, as the source spells them.
        meta: the plain data that the file holds besides (epoch, config text, versions).
        dropped: names of tensors that are not part of the model (optimizer, averages) -> why.
    """

    path: str
    sha256: str
    state: dict[str, torch.Tensor]
    meta: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)


def read(path: str | os.PathLike) -> Checkpoint:
    """Reads a checkpoint file.

    Args:
        path: a file of `torch.save` (`.pth`, `.pyth`, `.torch`, `.pt`), `.safetensors` or `.pkl`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint, is damaged, asks to run code, or holds no state dict;
            the message is one line that names the file.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: no such file")
    if not os.path.isfile(path):
        raise ValueError(f"{path}: is not a file")
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about files that are refused below
            content, meta = _open(path)
        state, rest = _unwrap(content)
        state = _tensors(state)
        if not state:
            raise Refused("holds no tensors")
        _refuse_foreign_prefix(state)
        dropped = dict.fromkeys(_tensors(rest), "no part of the model")
    except Refused as error:
        raise ValueError(f"{path}: {_line(error)}") from error
    except MemoryError as error:
        raise ValueError(f"{path}: damaged: asks for more memory than there is") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"{path}: damaged or not a checkpoint: {_line(error)}") from error
    meta |= {k: v for k, v in rest.items() if not isinstance(v, torch.Tensor | Array)}
    return Checkpoint(path, sha256, state, meta, dropped)


def _line(error: Exception) -> str:
    """The first line of a message, which may quote anything from a file."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return line if line.isprintable() else ascii(line)


def _open(path: str) -> tuple[Any, dict[str, Any]]:
    """The object that a file holds, and what its container says about it."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(32)
    if not head:
        raise Refused("is an empty file")
    if head.startswith(b"PK\x03\x04"):
        _check_zip(path, size)
        return load_torch(path), {}
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            names, header = file.keys(), file.metadata() or {}
            state = {name: file.get_tensor(name) for name in names}
        return state, {key: _plain(value) for key, value in header.items()}
    if _LEGACY_MAGIC in head:
        return load_torch(path), {}
    if head[:1] == b"\x80":
        return load_arrays(path), {}
    raise Refused("is not a checkpoint: not of torch.save, safetensors or pickle")


def _plain(value: str) -> Any:
    """A value of a safetensors header, whose values are all strings: JSON where it is any."""
    try:
        return json.loads(value)
    except ValueError:
        return value


# `torch.save` before 1.6 begins with this number, pickled.
_LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


def _check_zip(path: str, size: int) -> None:
    """`torch.save` stores without compression, so that no entry can be larger than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise Refused(f"is truncated or damaged ({error})") from error
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise Refused("is a compressed archive, which torch.save never writes")
    if (total := sum(entry.file_size for entry in entries)) > size:
        raise Refused(f"is damaged: declares {total} bytes of content in a file of {size}")


# Where training code keeps the weights inside a file, outermost key first.
_WRAPPERS = (
    ("model_state",),  # pycls
    ("classy_state_dict", "base_model", "model"),  # VISSL
    ("state_dict",),  # MMDetection, timm, Lightning
    ("model",),  # Detectron2, torchvision's reference scripts
    ("blobs",),  # Detectron
)

# What all names may begin with -> why.
_FOREIGN_PREFIXES = {
    ("module.",): "was wrapped in DistributedDataParallel: save model.module.state_dict()",
    ("ema.", "ema_", "ema_model.", "model_ema."): (
        "is an average (EMA) of weights: save the averaged model's own state_dict()"
    ),
    ("model.", "net."): "is a LightningModule: save its inner model's state_dict()",
    ("_orig_mod.",): "was compiled: save the original model's state_dict()",
}


def _unwrap(content: Any) -> tuple[Mapping, dict]:
    """The mapping that holds the model, and everything beside it."""
    if not isinstance(content, Mapping):
        raise Refused(f"holds a {type(content).__name__} and no state dict")
    for keys in _WRAPPERS:
        inner, rest = content, {}
        for key in keys:
            if not isinstance(inner, Mapping) or not isinstance(inner.get(key), Mapping):
                break
            rest |= {k: v for k, v in inner.items() if k != key}
            inner = inner[key]
        else:
            return inner, rest
    if not any(isinstance(value, torch.Tensor | Array) for value in content.values()):
        keys = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise Refused(f"holds no state dict that is known (it holds {keys})")
    return content, {}


def _tensors(value: Any) -> dict[str, torch.Tensor]:
    """Every tensor in nested mappings and sequences, named by the path to it."""
    found, seen = {}, set()

    def visit(value: Any, name: str) -> None:
        if isinstance(value, Array):
            native = value.array.dtype.newbyteorder("=")
            value = torch.from_numpy(value.array.astype(native, order="C"))
        if isinstance(value, torch.Tensor):
            if value.layout != torch.strided or value.is_meta:
                raise Refused(f"{name} holds no plain array of numbers")
            found[name] = value.detach()
        # A pickle may hold a container inside itself, or one inside another many times over.
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            for key, item in items:
                visit(item, f"{name}.{key}" if name else str(key))

    visit(value, "")
    return found


def _refuse_foreign_prefix(state: Mapping[str, torch.Tensor]) -> None:
    for prefixes, reason in _FOREIGN_PREFIXES.items():
        for prefix in prefixes:
            if all(name.startswith(prefix) for name in state):
                raise Refused(f"every name begins with {prefix!r}: the model {reason}")
