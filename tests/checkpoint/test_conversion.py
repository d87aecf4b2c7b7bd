"""Whole conversions, from file to file."""

import hashlib
import json
import os
import pickle

import numpy as np
import pytest
import safetensors
import torch

from d2_regnet.checkpoint import SOURCES, convert, read

SUFFIXES = (".pth", ".pkl", ".safetensors")
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_report_and_record(suffix, timm_file, tmp_path):
    dst = tmp_path / f"out{suffix}"
    report = convert(timm_file.path, dst)
    sha256 = hashlib.sha256(timm_file.path.read_bytes()).hexdigest()
    assert (report.source, report.arch) == ("timm", "RegNetY-200MF")
    assert (report.sha256, report.dst) == (sha256, str(dst))
    assert set(report.mapped) | set(report.dropped) == set(timm_file.state)
    assert report.mapped["s1.b1.conv2.bn.weight"] == "s1.b1.f.b_bn.weight"
    assert report.dropped["head.fc.weight"] == "classifier head"
    assert report.input_format == "RGB"
    assert (list(report.pixel_mean), list(report.pixel_std)) == (MEAN, STD)
    for said in ("timm", "RegNetY-200MF", str(len(report.mapped)), "head.fc.weight", "RGB"):
        assert said in str(report)
    written = read(dst)
    expected = {
        "arch": "RegNetY-200MF",
        "source": "timm",
        "source_sha256": sha256,
        "input_format": "RGB",
        "pixel_mean": MEAN,
        "pixel_std": STD,
        "matching_heuristics": True,
    }
    assert {key: written.meta[key] for key in expected} == expected


def test_formats_are_what_their_names_say(converted):
    weights = torch.load(converted[".pth"], weights_only=True)
    with open(converted[".pkl"], "rb") as file:
        arrays = pickle.load(file)
    assert isinstance(arrays["model"]["stem.conv.weight"], np.ndarray)
    assert arrays["__author__"] == "d2_regnet"
    with safetensors.safe_open(converted[".safetensors"], "pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert header["input_format"] == "RGB" and json.loads(header["pixel_std"]) == STD
    for name, tensor in weights["model"].items():
        assert torch.equal(tensor, tensors[name])
        assert np.array_equal(tensor.numpy(), arrays["model"][name])
    assert len(weights["model"]) == len(tensors) == len(arrays["model"])


def test_the_other_input_format(timm_file, converted, tmp_path):
    report = convert(timm_file.path, tmp_path / "bgr.pth", input_format="BGR")
    assert report.input_format == "BGR"
    assert (list(report.pixel_mean), list(report.pixel_std)) == (MEAN[::-1], STD[::-1])
    bgr, rgb = read(tmp_path / "bgr.pth"), read(converted[".pth"])
    assert bgr.meta["pixel_mean"] == MEAN[::-1]
    for name, tensor in rgb.state.items():
        if name == "stem.conv.weight":
            assert torch.equal(bgr.state[name], tensor[:, [2, 1, 0]])
            assert not torch.equal(bgr.state[name], tensor)
        else:
            assert torch.equal(bgr.state[name], tensor)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_there_and_back_is_bitwise_the_same(suffix, timm_file, converted):
    restored = SOURCES["timm"].restore(read(converted[suffix]).state)
    report_dropped = {n for n in timm_file.state if "num_batches" in n or n.startswith("head.")}
    assert restored.keys() == timm_file.state.keys() - report_dropped
    assert all(torch.equal(tensor, timm_file.state[name]) for name, tensor in restored.items())


def test_the_same_file_gives_the_same_bytes(timm_file, converted, tmp_path):
    for suffix in (".pkl", ".pth"):  # the order of a safetensors header is random
        convert(timm_file.path, tmp_path / f"again{suffix}")
        assert (tmp_path / f"again{suffix}").read_bytes() == converted[suffix].read_bytes()


def test_explicit_arguments_that_agree_with_the_file(timm_file, tmp_path):
    report = convert(timm_file.path, tmp_path / "o.pth", source="timm", arch="regnety_200mf")
    assert report.arch == "RegNetY-200MF"


def test_a_converted_file_is_not_converted_again(converted, tmp_path):
    with pytest.raises(ValueError, match="load it as it is"):
        convert(converted[".pth"], tmp_path / "again.pth")


def test_an_existing_file_is_replaced_only_when_asked(timm_file, tmp_path):
    dst = tmp_path / "dst.pth"
    dst.write_text("precious")
    with pytest.raises(FileExistsError, match="dst.pth.*overwrite"):
        convert(timm_file.path, dst)
    assert dst.read_text() == "precious"
    convert(timm_file.path, dst, overwrite=True)
    assert read(dst).meta["arch"] == "RegNetY-200MF"
    assert os.listdir(tmp_path) == ["dst.pth"]
