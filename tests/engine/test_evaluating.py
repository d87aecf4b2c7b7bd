"""evaluate() of a model as it is, and made ready for inference."""

import pytest
import torch
from detectron2.config import instantiate

from d2_regnet import optimize_for_inference
from d2_regnet.engine import evaluate, evaluating, load_config


@pytest.fixture
def cfg(fixtures, tmp_path, monkeypatch):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    return load_config(
        str(fixtures / "tiny_mask_rcnn.py"), [f"train.output_dir={tmp_path / 'out'}"]
    )


def test_evaluates_the_optimized_model(cfg, monkeypatch):
    made = []

    def optimize(*args, **options):
        made.append(options)
        return optimize_for_inference(*args, **options)

    monkeypatch.setattr(evaluating, "optimize_for_inference", optimize)
    model = instantiate(cfg.model)
    plain = evaluate(cfg, model)
    assert not made
    cfg.train.optimize_for_inference.enabled = True
    optimized = evaluate(cfg, model)
    assert made == [{"dtype": torch.float32, "compile": False}]
    assert optimized["bbox"]["AP"] == pytest.approx(plain["bbox"]["AP"], abs=0.05)

    cfg.train.optimize_for_inference.dtype = "int8"
    with pytest.raises(
        ValueError, match="train.optimize_for_inference.dtype='int8' is not a dtype"
    ):
        evaluate(cfg)


def test_nothing_is_written_where_there_are_no_weights(cfg, tmp_path):
    with pytest.raises(ValueError, match="needs weights"):
        evaluate(cfg)
    assert not (tmp_path / "out").exists()
