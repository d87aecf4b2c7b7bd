"""Converted files, loaded by Detectron2's checkpointer."""

import pickle

import detectron2.model_zoo
import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L
from detectron2.config import instantiate

from d2_regnet import model_zoo
from d2_regnet.checkpoint import SafeCheckpointer, convert, read
from d2_regnet.modeling.backbone.regnet import build_regnet

SUFFIXES = (".pth", ".pkl", ".safetensors")


class Recording(SafeCheckpointer):
    def _log_incompatible_keys(self, incompatible):
        self.incompatible = incompatible


class RecordingDetectron2(DetectionCheckpointer):
    _log_incompatible_keys = Recording._log_incompatible_keys


def load(model, path):
    checkpointer = RecordingDetectron2 if path.suffix != ".safetensors" else Recording
    checkpointer = checkpointer(model)
    rest = checkpointer.load(str(path))
    return checkpointer.incompatible, rest


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
