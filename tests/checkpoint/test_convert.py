"""Converted files: what is in them, how Detectron2 loads them, and how they come to be."""

import hashlib
import json
import os
import pickle
import resource
import subprocess
from types import SimpleNamespace

import detectron2.model_zoo
import numpy as np
import pytest
import safetensors
import timm
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L
from detectron2.config import instantiate

from d2_regnet import model_zoo
from d2_regnet.checkpoint import SOURCES, SafetensorsCheckpointer, convert, read
from d2_regnet.modeling.regnet import build_regnet

SUFFIXES = (".pth", ".pkl", ".safetensors")
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.fixture(scope="module")
def source(tmp_path_factory, bodies):
    """A checkpoint of timm's RegNetY-200MF, its state and its folder's path."""
    state = bodies.built(lambda: timm.create_model("regnety_002")).state_dict()
    path = tmp_path_factory.mktemp("source") / "regnety_002.pth"
    torch.save({"state_dict": state, "arch": "regnety_002"}, path)
    return SimpleNamespace(path=path, state=state)


@pytest.fixture(scope="module")
def converted(source, tmp_path_factory):
    """The same conversion in every format."""
    folder = tmp_path_factory.mktemp("converted")
    paths = {suffix: folder / f"regnety_002{suffix}" for suffix in SUFFIXES}
    for path in paths.values():
        convert(source.path, path)
    return paths


class Recording(SafetensorsCheckpointer):
    def _log_incompatible_keys(self, incompatible):
        self.incompatible = incompatible


class RecordingDetectron2(DetectionCheckpointer):
    _log_incompatible_keys = Recording._log_incompatible_keys


def load(model, path):
    checkpointer = RecordingDetectron2 if path.suffix != ".safetensors" else Recording
    checkpointer = checkpointer(model)
    rest = checkpointer.load(str(path))
    return checkpointer.incompatible, rest


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_report_and_record(suffix, source, tmp_path):
    dst = tmp_path / f"out{suffix}"
    report = convert(source.path, dst)
    sha256 = hashlib.sha256(source.path.read_bytes()).hexdigest()
    assert (report.source, report.arch) == ("timm", "RegNetY-200MF")
    assert (report.sha256, report.dst) == (sha256, str(dst))
    assert set(report.mapped) | set(report.dropped) == set(source.state)
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


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "EvalBN"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_loads_into_a_body_without_missing_or_unexpected_keys(suffix, norm, converted):
    model = build_regnet("RegNetY-200MF", norm=norm)
    incompatible, rest = load(model, converted[suffix])
    assert incompatible.missing_keys == []
    assert incompatible.unexpected_keys == []
    assert incompatible.incorrect_shapes == []
    assert rest["input_format"] == "RGB"
    state = model.state_dict()
    for name, tensor in read(converted[suffix]).state.items():
        assert torch.equal(state[name], tensor)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_loads_into_a_detector_whose_heads_alone_are_missing(suffix, converted):
    cfg = model_zoo.get_config("retinanet_regnety_200mf_fpn_1x")
    model = instantiate(cfg.model)
    incompatible, _ = load(model, converted[suffix])
    assert incompatible.unexpected_keys == []
    assert incompatible.incorrect_shapes == []
    body = {n for n in model.state_dict() if n.startswith("backbone.bottom_up.")}
    assert not body & set(incompatible.missing_keys)
    assert "head.cls_score.weight" in incompatible.missing_keys
    state = model.state_dict()
    for name, tensor in read(converted[suffix]).state.items():
        assert torch.equal(state[f"backbone.bottom_up.{name}"], tensor)


def test_detectron2s_own_detector_loads_as_it_is(tmp_path):
    cfg = detectron2.model_zoo.get_config(
        "new_baselines/mask_rcnn_regnetx_4gf_dds_FPN_100ep_LSJ.py"
    )
    for part in (cfg.model.backbone, cfg.model.backbone.bottom_up):
        part.norm = "BN"
    theirs = instantiate(cfg.model)
    arrays = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    path = tmp_path / "model_final_f1362d.pkl"
    with open(path, "wb") as file:
        pickle.dump({"model": arrays, "__author__": "Detectron2 Model Zoo"}, file)
    stages = ["s1", "s2", "s3", "s4"]
    cfg.model.backbone.bottom_up = L(build_regnet)(
        arch="RegNetX-4.0GF", norm="BN", out_features=stages
    )
    ours = instantiate(cfg.model)
    incompatible, _ = load(ours, path)
    assert incompatible.missing_keys == []
    assert incompatible.unexpected_keys == []
    state = ours.state_dict()
    assert all(np.array_equal(state[name].numpy(), array) for name, array in arrays.items())
    with pytest.raises(ValueError, match="load it as it is"):
        convert(path, tmp_path / "out.pth")


def test_the_other_input_format(source, converted, tmp_path):
    report = convert(source.path, tmp_path / "bgr.pth", input_format="BGR")
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
def test_there_and_back_is_bitwise_the_same(suffix, source, converted):
    restored = SOURCES["timm"].naming.restore(read(converted[suffix]).state)
    report_dropped = {n for n in source.state if "num_batches" in n or n.startswith("head.")}
    assert restored.keys() == source.state.keys() - report_dropped
    assert all(torch.equal(tensor, source.state[name]) for name, tensor in restored.items())


def test_the_same_file_gives_the_same_bytes(source, converted, tmp_path):
    for suffix in (".pkl", ".pth"):  # the order of a safetensors header is random
        convert(source.path, tmp_path / f"again{suffix}")
        assert (tmp_path / f"again{suffix}").read_bytes() == converted[suffix].read_bytes()


def test_explicit_arguments_that_agree_with_the_file(source, tmp_path):
    report = convert(source.path, tmp_path / "o.pth", source="timm", arch="regnety_200mf")
    assert report.arch == "RegNetY-200MF"


def test_a_converted_file_is_not_converted_again(converted, tmp_path):
    with pytest.raises(ValueError, match="load it as it is"):
        convert(converted[".pth"], tmp_path / "again.pth")


def test_an_existing_file_is_replaced_only_when_asked(source, tmp_path):
    dst = tmp_path / "dst.pth"
    dst.write_text("precious")
    with pytest.raises(FileExistsError, match="dst.pth.*overwrite"):
        convert(source.path, dst)
    assert dst.read_text() == "precious"
    convert(source.path, dst, overwrite=True)
    assert read(dst).meta["arch"] == "RegNetY-200MF"
    assert os.listdir(tmp_path) == ["dst.pth"]


@pytest.mark.parametrize(
    ("dst", "error", "message"),
    [
        ("out.bin", ValueError, "must end in one of .pth, .safetensors, .pkl"),
        ("absent/out.pth", FileNotFoundError, "no folder .*absent"),
        ("folder.pth", ValueError, "is a folder"),
    ],
)
def test_destinations_that_cannot_be(dst, error, message, source, tmp_path):
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(error, match=message):
        convert(source.path, tmp_path / dst, overwrite=True)
    assert os.listdir(tmp_path) == ["folder.pth"]


def test_the_source_is_never_overwritten(source):
    before = source.path.read_bytes()
    with pytest.raises(ValueError, match="is the file to convert"):
        convert(source.path, source.path, overwrite=True)
    assert source.path.read_bytes() == before


@pytest.fixture
def full_disk(tmp_path):
    """A folder with room for a tenth of the checkpoint, and a file in it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system of one megabyte can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_nothing_behind(suffix, source, full_disk):
    dst = full_disk / f"out{suffix}"
    with pytest.raises(OSError, match=f"out{suffix}: could not be written .*[Nn]o space left"):
        convert(source.path, dst)
    assert os.listdir(full_disk) == []
    dst.write_text("precious")
    with pytest.raises(OSError, match="could not be written"):
        convert(source.path, dst, overwrite=True)
    assert os.listdir(full_disk) == [dst.name]
    assert dst.read_text() == "precious"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_nothing_behind(suffix, source, tmp_path):
    # For where nothing can be mounted: no file may grow beyond a megabyte.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match="could not be written .*File too large"):
            convert(source.path, tmp_path / f"out{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []
