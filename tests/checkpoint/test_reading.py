"""Files of every format and wrapper, read."""

import argparse
import hashlib
import io
import itertools
import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch

from d2_regnet.checkpoint import read
from d2_regnet.checkpoint.reading import _tensors

STATE = {
    "stem.conv.weight": torch.arange(216.0).view(8, 3, 3, 3),
    "stem.bn.num_batches_tracked": torch.tensor(5),
}
ARRAYS = {name: tensor.numpy() for name, tensor in STATE.items()}


def equal(state, expected=STATE):
    return state.keys() == expected.keys() and all(
        torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype
        for name, tensor in expected.items()
    )


def torch_file(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@pytest.fixture
def reading(tmp_path):
    def read_bytes(data, name="file"):
        path = tmp_path / name
        path.write_bytes(data)
        checkpoint = read(path)
        assert checkpoint.path == str(path)
        assert checkpoint.sha256 == hashlib.sha256(data).hexdigest()
        return checkpoint

    return read_bytes


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_save(reading, zipped):
    data = torch_file(OrderedDict(STATE), _use_new_zipfile_serialization=zipped)
    assert equal(reading(data).state)


def test_safetensors_with_their_header(reading):
    header = {"format": "pt", "pixel_mean": "[1.0, 2.0]", "arch": "RegNetX-200MF"}
    checkpoint = reading(safetensors.torch.save(STATE, header))
    assert equal(checkpoint.state)
    assert checkpoint.meta == {**header, "pixel_mean": [1.0, 2.0]}


def test_pickled_arrays_of_detectron2s_model_zoo(reading):
    content = {"model": ARRAYS, "__author__": "someone", "matching_heuristics": True}
    checkpoint = reading(pickle.dumps(content))
    assert equal(checkpoint.state)
    assert checkpoint.meta == {"__author__": "someone", "matching_heuristics": True}


def test_the_ending_of_the_name_does_not_count(reading):
    assert equal(reading(safetensors.torch.save(STATE), "weights.pth").state)
    assert equal(reading(torch_file(STATE), "weights.pkl").state)
    assert equal(reading(pickle.dumps({"model": ARRAYS}, 2), "weights.safetensors").state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model_state": s, "epoch": 99, "cfg": "MODEL: {}"},
        lambda s: {"state_dict": s, "meta": {"config": "model = dict()", "CLASSES": ("a", "b")}},
        lambda s: {"model": s, "args": argparse.Namespace(lr=1.0), "best": np.float64(3.0)},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappers_and_the_metadata_of_training_code(reading, wrap, zipped):
    checkpoint = reading(torch_file(wrap(STATE), _use_new_zipfile_serialization=zipped))
    assert equal(checkpoint.state)
    assert checkpoint.dropped == {}
    assert set(checkpoint.meta) == set(wrap(STATE)) - {"model_state", "state_dict", "model"}


def test_plain_metadata_is_kept(reading):
    meta = {"config": "to_rgb=True", "epoch": 12, "CLASSES": ("person", "car")}
    assert reading(torch_file({"state_dict": STATE, "meta": meta})).meta == {"meta": meta}


def test_tensors_beside_the_model_are_named(reading):
    content = {
        "model_state": STATE,
        "ema_state": {"stem.conv.weight": torch.zeros(2)},
        "optimizer_state": {"state": {0: {"momentum": torch.zeros(2)}}, "groups": [{"lr": 0.1}]},
        "temperature": torch.tensor(1.0),
    }
    checkpoint = reading(torch_file(content))
    assert equal(checkpoint.state)
    assert set(checkpoint.dropped) == {
        "ema_state.stem.conv.weight",
        "optimizer_state.state.0.momentum",
        "temperature",
    }


def test_containers_inside_one_another_end():
    # Two to the power of 50 paths, and a mapping that holds itself.
    nested = [torch.zeros(1)]
    for _ in range(50):
        nested = [nested, nested]
    cycle = {"x": torch.zeros(1)}
    cycle["self"] = cycle
    assert len(_tensors(nested)) == 1
    assert set(_tensors(cycle)) == {"x"}


def foreign(monkeypatch, path, base=object, **members):
    """A class that exists while a file is written, and not any more when it is read."""
    module, _, name = path.rpartition(".")
    cls = type(name, (base,), {"__module__": module, "__qualname__": name, **members})
    for part in itertools.accumulate(module.split("."), "{}.{}".format):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    setattr(sys.modules[module], name, cls)
    return cls


@pytest.mark.parametrize("zipped", [True, False])
def test_metadata_of_classes_that_are_not_installed(reading, monkeypatch, zipped):
    with monkeypatch.context() as patch:
        # As MMEngine's does: its state holds functions of the class, which pickle as `getattr`.
        buffer = foreign(
            patch,
            "mmengine.logging.history_buffer.HistoryBuffer",
            mean=lambda self: 0,
            __getstate__=lambda self: {"history": np.arange(3.0), "methods": type(self).mean},
        )
        buffer.mean.__module__, buffer.mean.__qualname__ = buffer.__module__, "HistoryBuffer.mean"
        config = foreign(
            patch,
            "mmengine.config.config.ConfigDict",
            dict,
            __getstate__=dict.copy,
            __setstate__=dict.update,
        )
        attributes = foreign(patch, "vissl.config.attr_dict.AttrDict", dict)
        content = {
            "state_dict": STATE,
            "message_hub": {"log_scalars": {"train/loss": buffer()}},
            "meta": {"cfg": config(to_rgb=True)},
            "config": attributes(INPUT_TYPE="rgb"),
        }
        data = torch_file(content, _use_new_zipfile_serialization=zipped)
    assert "mmengine.config.config" not in sys.modules
    checkpoint = reading(data)
    assert equal(checkpoint.state)
    assert checkpoint.meta["meta"] == {"cfg": {"to_rgb": True}}
    assert checkpoint.meta["config"] == {"INPUT_TYPE": "rgb"}
