"""Mutated checkpoints either convert to what the model needs or end in one clear line."""

import functools
import io
import os
import pickle
import zipfile

import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d2_regnet.checkpoint import convert, read
from d2_regnet.checkpoint.backbone import backbone_shapes
from d2_regnet.checkpoint.conversion import convert_state
from d2_regnet.modeling.backbone.regnet import build_regnet

# Reproducible: a failure is found by everybody or by nobody.
fuzz = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SMALL = {"stem.conv.weight": torch.ones(4, 3, 3, 3), "stem.bn.weight": torch.ones(4)}


def seeds():
    zipped, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"model_state": SMALL, "epoch": 3, "x": [1, (2.0, "a")]}, zipped)
    torch.save({"state_dict": SMALL}, legacy, _use_new_zipfile_serialization=False)
    arrays = {name: tensor.numpy() for name, tensor in SMALL.items()}
    return [
        zipped.getvalue(),
        legacy.getvalue(),
        safetensors.torch.save(SMALL, {"a": "b"}),
        pickle.dumps({"model": arrays, "__author__": "x"}, 2),
        pickle.dumps({"model": arrays}, 5),
    ]


# What happens at a place (a fraction of the file): bytes replaced, inserted or removed.
MUTATION = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["replace", "insert", "remove"]),
    st.binary(min_size=1, max_size=12),
)


def mutate(data, mutations):
    for place, what, patch in mutations:
        at = int(place * len(data))
        inserted = b"" if what == "remove" else patch
        removed = 0 if what == "insert" else len(patch)
        data = data[:at] + inserted + data[at + removed :]
    return data


def mutate_inside(archive, mutations):
    """Mutates the pickle in a zip file, whose checksums then fit."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, mutate(data, mutations) if name.endswith("data.pkl") else data)
    return out.getvalue()


def assert_one_line(error):
    text = str(error)
    assert text and "\n" not in text and len(text) < 1500


@settings(fuzz, max_examples=400)
@given(
    seed=st.integers(0, 4),
    inside=st.booleans(),
    mutations=st.lists(MUTATION, min_size=1, max_size=4),
)
def test_mutated_bytes(tmp_path, seed, inside, mutations):
    data = seeds()[seed]
    path = tmp_path / "file"
    path.write_bytes((mutate_inside if inside and seed == 0 else mutate)(data, mutations))
    try:
        checkpoint = read(path)
    except ValueError as error:
        assert str(path) in str(error)
        assert_one_line(error)
    else:
        assert all(type(tensor) is torch.Tensor for tensor in checkpoint.state.values())


@functools.cache
def original():
    torch.manual_seed(0)
    return build_regnet("RegNetX-200MF", norm="BN").state_dict()


def poison(tensor, value):
    tensor = tensor.clone()
    tensor.view(-1)[-1:] = value
    return tensor


CHANGES = {
    "drop": lambda state, name: state.pop(name),
    "rename": lambda state, name: state.update({f"{name}x": state.pop(name)}),
    "prefix": lambda state, name: state.update({f"module.{name}": state.pop(name)}),
    "add": lambda state, name: state.update({f"ema_{name}": state[name]}),
    "nan": lambda state, name: state.update({name: poison(state[name].float(), torch.nan)}),
    "infinite": lambda state, name: state.update({name: poison(state[name].float(), torch.inf)}),
    "half": lambda state, name: state.update({name: state[name].half()}),
    "bfloat16": lambda state, name: state.update({name: state[name].bfloat16()}),
    "integer": lambda state, name: state.update({name: state[name].int()}),
    "flatten": lambda state, name: state.update({name: state[name].flatten()}),
    "slice": lambda state, name: state.update({name: state[name].reshape(-1)[:0]}),
    "scalar": lambda state, name: state.update({name: torch.tensor(1.0)}),
    "huge": lambda state, name: state.update({name: torch.zeros(1).expand(10**5, 10**5)}),
}


@settings(fuzz, max_examples=150)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(sorted(CHANGES)), st.integers(0, 263)), min_size=1, max_size=3
    )
)
def test_changed_state_dicts(changes):
    state = original()
    changed, names = dict(state), list(state)
    # What is huge comes last: another change would copy its 40 GB.
    for change, index in sorted(changes, key=lambda each: each[0] == "huge"):
        if names[index] in changed:
            CHANGES[change](changed, names[index])
    try:
        source, mapped = convert_state(changed)
    except ValueError as error:
        assert_one_line(error)
        return
    # Only the counters, which are dropped, and what is flat already can change without harm.
    shapes = {name: tuple(tensor.shape) for name, tensor in mapped.state.items()}
    assert (source, shapes) == ("pycls", backbone_shapes("RegNetX-200MF"))
    assert all(torch.equal(tensor, state[name]) for name, tensor in mapped.state.items())


@settings(fuzz, max_examples=30)
@given(mutations=st.lists(MUTATION, min_size=1, max_size=3))
def test_whole_conversions_write_all_or_nothing(tmp_path, mutations):
    src, dst = tmp_path / "src.pth", tmp_path / "dst.pth"
    torch.save(original(), src)
    src.write_bytes(mutate_inside(src.read_bytes(), mutations))
    try:
        report = convert(src, dst)
    except ValueError as error:
        assert_one_line(error)
        assert os.listdir(tmp_path) == ["src.pth"]
    else:
        assert report.arch == "RegNetX-200MF"
        assert read(dst).state.keys() == backbone_shapes("RegNetX-200MF").keys()
        dst.unlink()
