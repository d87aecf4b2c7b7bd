"""Broken, hostile and wrong files: each ends in one line and exit code 2, with nothing written."""

import builtins
import io
import os
import pickle
import re
import struct
import subprocess
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from d2_regnet.commands.convert import main
from d2_regnet.modeling.backbone.regnet import build_regnet

ZIP = dict(_use_new_zipfile_serialization=True)
LEGACY = dict(_use_new_zipfile_serialization=False)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return build_regnet("RegNetX-200MF", norm="BN").state_dict()


@pytest.fixture
def refused(tmp_path, capsys):
    """Converts `content` (bytes, or what torch.save takes); returns the one line on stderr."""

    def convert(content, *arguments, **options):
        src, dst = tmp_path / "src.pth", tmp_path / "dst.pth"
        if isinstance(content, bytes):
            src.write_bytes(content)
        else:
            torch.save(content, src, **options)
        before = sorted(os.listdir(tmp_path))
        with pytest.raises(SystemExit) as exit:
            main([str(src), str(dst), *arguments])
        output = capsys.readouterr()
        assert exit.value.code == 2
        assert sorted(os.listdir(tmp_path)) == before
        assert output.out == ""
        assert output.err.startswith("error: ")
        assert output.err.count("\n") == 1 and output.err.endswith("\n")
        assert len(output.err) < 1000 and output.err.strip().isprintable()
        return output.err

    return convert


def files(state):
    """The same weights in every format."""
    buffer, legacy = io.BytesIO(), io.BytesIO()
    torch.save(state, buffer)
    torch.save(state, legacy, **LEGACY)
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    return {
        "zip": buffer.getvalue(),
        "legacy": legacy.getvalue(),
        "safetensors": safetensors.torch.save(state),
        "pickle": pickle.dumps({"model": arrays, "__author__": "someone"}, 2),
    }


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def calls(marker):
    code = f"open({str(marker)!r}, 'w')"
    return {
        "os.system": Call(os.system, f"touch {marker}"),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "Popen": Call(subprocess.Popen, ["touch", str(marker)]),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "open": Call(builtins.open, str(marker), "w"),
    }


@pytest.mark.parametrize("name", calls(""))
@pytest.mark.parametrize("place", ["alone", "beside", "among the weights"])
def test_code_in_a_file_never_runs(name, place, state, refused, tmp_path):
    marker = tmp_path / "ran"
    call = calls(marker)[name]
    content = {
        "alone": call,
        "beside": {"state_dict": state, "meta": {"x": call}},
        "among the weights": {**state, "x": call},
    }[place]
    for options in (ZIP, LEGACY):
        assert "refused" in refused(content, **options)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        plain = call if place == "alone" else {"model": {"x": call}}
        assert "refused" in refused(pickle.dumps(plain, protocol))
    for protocol in (0, 1):
        refused(pickle.dumps(call, protocol))
    assert not marker.exists()


def test_a_whole_model_is_refused(refused):
    assert "refused" in refused(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "pickle"])
def test_truncated_at_every_tenth(kind, state, refused):
    data = files(state)[kind]
    for tenth in range(10):
        refused(data[: len(data) * tenth // 10])
    refused(data[:-1])


@pytest.mark.parametrize(
    "head", [b"", b"\x80\x02", b"\x80\x04\x95", b"PK\x03\x04", b"\x10" + b"\0" * 7 + b"{"]
)
def test_random_bytes(head, refused):
    for seed in range(20):
        refused(head + np.random.RandomState(seed).bytes(3000))


def test_not_a_checkpoint_at_all(refused, tmp_path, capsys):
    assert "empty" in refused(b"")
    assert "not a checkpoint" in refused(b"Not a checkpoint.\n" * 50)
    assert "not a checkpoint" in refused(b'{"model": 1}\n')
    assert "not a checkpoint" in refused(b"<html>404</html>")
    for src in (tmp_path, tmp_path / "absent.pth"):
        with pytest.raises(SystemExit) as exit:
            main([str(src), str(tmp_path / "dst.pth")])
        assert exit.value.code == 2
        error = capsys.readouterr().err
        assert str(src) in error and error.count("\n") == 1


def test_archives_that_declare_more_than_they_hold(state, refused, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (64 << 20))
        archive.writestr("archive/version", "3")
    bomb = (tmp_path / "bomb").read_bytes()
    assert len(bomb) < 1 << 20
    assert "compressed" in refused(bomb)
    # The size in the directory at the end of the file, of its first entry.
    data = bytearray(files(state)["zip"])
    at = data.find(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", 0xFFFFFFF0)
    assert "declares" in refused(bytes(data))


def test_pickles_that_ask_for_memory(refused):
    refused(b"\x80\x02}r\xff\xff\xff\x7f.")  # an entry of the memo far away
    refused(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.")  # a string of 2**63 - 1 bytes
    refused(pickle.dumps({"model": {"stem.conv.weight": Call(np.ndarray, (10**12,))}}))
    refused(struct.pack("<Q", 2**62) + b"{" + b" " * 100)
    header = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}'
    refused(struct.pack("<Q", len(header)) + header + b"0000")


def test_names_of_globals_are_quoted_safely(refused):
    # What STACK_GLOBAL and GLOBAL take from the file may hold line ends and escape sequences.
    assert "refused" in refused(b"\x80\x04\x8c\x04a\nb\x1b\x8c\x03c\nd\x93.")
    assert "refused" in refused(b"\x80\x02ca\x1b[31m\nb\n.")


def test_arrays_of_objects(refused):
    assert "only numbers" in refused(pickle.dumps({"model": {"a": np.array([None])}}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no state dict"),
        (torch.zeros(3), "no state dict"),
        ({}, "no state dict"),
        ({"a": 1, "b": "text"}, "it holds a, b"),
        ({"model": {}}, "no tensors"),
        ({"linear.weight": torch.zeros(3)}, "no known source"),
    ],
)
def test_files_without_a_regnet(content, message, refused):
    assert message in refused(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {n: s[n] for n in s if n != "s4.b3.f.c.weight"},
            "lacks tensors .*s4.b3.f.c.weight",
        ),
        (lambda s: {n: s[n] for n in s if not n.startswith("s4.b7.")}, "no known RegNet"),
        (lambda s: {n: s[n] for n in s if not n.startswith("stem.")}, "lacks tensors .*stem.conv"),
        (
            lambda s: {**s, "extra.weight": torch.zeros(3)},
            "RegNetX-200MF does not have .*extra.weight",
        ),
        (lambda s: {**s, 3: torch.zeros(3)}, "does not have"),
        (lambda s: {**s, "a\nb\x1b[31m": torch.zeros(3)}, "does not have"),
        (lambda s: {**s, "s1.b1.f.a.weight": torch.zeros(3)}, "shape .3."),
        (lambda s: {**s, "stem.conv.weight": torch.zeros(32, 4, 3, 3)}, "shape .32, 4, 3, 3."),
        (lambda s: {**s, "s1.b1.f.a.weight": torch.zeros(1).expand(10**6, 10**6)}, "shape"),
        (lambda s: {**s, "stem.bn.weight": torch.zeros(32).to_sparse()}, "no plain array"),
        (lambda s: {**s, "stem.bn.weight": torch.zeros(32, device="meta")}, "no plain array"),
        (lambda s: {**s, "stem.bn.weight": "text"}, "lacks tensors .*stem.bn.weight"),
        (lambda s: {**s, "stem.bn.bias": torch.full((32,), torch.nan)}, "bias .*not finite"),
        (lambda s: {**s, "stem.bn.bias": torch.full((32,), torch.inf)}, "bias .*not finite"),
        (lambda s: {**s, "stem.bn.running_var": -torch.ones(32)}, "negative variances"),
        (lambda s: {n: t.half() for n, t in s.items()}, "is float16"),
        (lambda s: {n: t.bfloat16() for n, t in s.items()}, "is bfloat16"),
        (lambda s: {n: t.double() for n, t in s.items()}, "is float64"),
        (lambda s: {**s, "stem.bn.bias": torch.zeros(32, dtype=torch.int64)}, "is int64"),
        (lambda s: {f"module.{n}": t for n, t in s.items()}, "DistributedDataParallel"),
        (lambda s: {"model_state": {f"module.{n}": s[n] for n in s}}, "DistributedDataParallel"),
        (lambda s: {f"ema.{n}": t for n, t in s.items()}, "EMA"),
        (lambda s: {f"model_ema.{n}": t for n, t in s.items()}, "EMA"),
        (lambda s: {f"ema_{n}": t for n, t in s.items()}, "EMA"),
        (
            lambda s: {**s, **{"ema_" + n.replace(".", "_"): s[n] for n in s}},
            "does not have .*ema_stem",
        ),
        (
            lambda s: {
                "state_dict": {f"model.{n}": t for n, t in s.items()},
                "pytorch-lightning_version": "2.4.0",
                "hyper_parameters": {"lr": 0.1},
            },
            "LightningModule",
        ),
        (lambda s: {f"_orig_mod.{n}": t for n, t in s.items()}, "compiled"),
        (lambda s: {f"backbone.bottom_up.{n}": t for n, t in s.items()}, "load it as it is"),
    ],
)
def test_state_dicts_that_do_not_fit(change, message, state, refused):
    assert re.search(message, refused(change(state)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "RegNetX-400MF"], "RegNetX-400MF contradicts .* RegNetX-200MF"),
        (["--arch", "RegNetY-200MF"], "RegNetY-200MF contradicts .* RegNetX-200MF"),
        (["--arch", "RegNetX-5GF"], "unknown RegNet"),
        (["--source", "timm"], "timm contradicts .* pycls"),
        (["--source", "tim"], "unknown source 'tim': the nearest are timm"),
        (["--input-format", "GRB"], "GRB"),
    ],
)
def test_arguments_that_contradict_the_file(arguments, message, state, refused):
    assert re.search(message, refused(state, *arguments))
