"""What of a checkpoint a model takes, in every form that people begin a training from."""

import pytest
import torch
from detectron2.config import instantiate

from d2_regnet.archs import get_arch
from d2_regnet.checkpoint import convert
from d2_regnet.checkpoint.fitting import BACKBONE, DETECTOR, SCRATCH, load_fitting
from d2_regnet.engine import load_config
from d2_regnet.finetune.adapt import set_model
from d2_regnet.modeling.backbone.regnet import build_regnet


@pytest.fixture
def cfg(tiny_run):
    return load_config(str(tiny_run / "config.yaml"))


@pytest.fixture
def backbone(cfg):
    """The detector's backbone alone, its names as Detectron2's RegNet has them."""
    torch.manual_seed(1)
    return instantiate(cfg.model).backbone.bottom_up.state_dict()


def fit(cfg, weights):
    return load_fitting(instantiate(cfg.model), str(weights))


def test_the_same_classes_keep_everything(cfg, tiny_run):
    found = fit(cfg, tiny_run / "model_final.pth")
    assert found.start == DETECTOR and found.kept == found.total and found.anew == ()
    found.check("w", whole=True)


def test_last_layers_of_another_number_of_classes_are_dropped(cfg, tiny_run):
    set_model(cfg, 2, masks=True)
    found = fit(cfg, tiny_run / "model_final.pth")
    assert found.anew == (
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_head.predictor",
    )
    assert found.total - found.kept == 6
    assert "starting at random: roi_heads.box_predictor.cls_score" in str(found)
    found.check("w", whole=False)
    with pytest.raises(ValueError, match="w has no values.*3 layers.*cls_score.*--allow-missing"):
        found.check("w", whole=True)
    found.check("w", whole=True, allow_missing=True)


def test_a_body_and_nothing(cfg, tiny_run, tmp_path):
    state = torch.load(tiny_run / "model_final.pth")["model"]
    body = {name: tensor for name, tensor in state.items() if "bottom_up" in name}
    torch.save({"model": body}, tmp_path / "body.pth")
    assert fit(cfg, tmp_path / "body.pth").start == BACKBONE
    assert fit(cfg, "").start == SCRATCH and str(fit(cfg, "")) == SCRATCH


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pkl"])
def test_what_convert_writes_is_a_backbone(tmp_path, suffix):
    """A backbone's own names are matched with the detector's, in every form that is written."""
    torch.manual_seed(0)
    source = build_regnet(get_arch("RegNetY-200MF"), norm="BN").state_dict()
    torch.save({"model_state": source}, tmp_path / "y.pyth")
    convert(tmp_path / "y.pyth", tmp_path / f"y{suffix}")
    cfg = load_config("mask_rcnn_regnety_200mf_fpn_1x")
    model = instantiate(cfg.model)
    found = load_fitting(model, str(tmp_path / f"y{suffix}"))
    assert found.start == BACKBONE and not found.backbone_lacks and not found.contradictions
    assert found.kept == len([n for n in source if not n.endswith("num_batches_tracked")])
    found.check("w", whole=False)
    with pytest.raises(ValueError, match="would stay random"):
        found.check("w", whole=True)
    taken = model.backbone.bottom_up.state_dict()["s2.b1.f.b.weight"]
    torch.testing.assert_close(taken, source["s2.b1.f.b.weight"], rtol=0, atol=0)


def test_a_query_matches_names_as_detectron2_does(cfg, backbone, tmp_path):
    torch.save({"model": backbone}, tmp_path / "body.pth")
    with pytest.raises(ValueError, match="nothing of this model.*d2-regnet convert"):
        fit(cfg, tmp_path / "body.pth")
    assert fit(cfg, f"{tmp_path / 'body.pth'}?matching_heuristics=True").start == BACKBONE


def test_a_part_of_a_backbone_is_refused(cfg, backbone, tmp_path):
    """Another network's stem fits, and its stages do not."""
    part = {n: t for n, t in backbone.items() if not n.startswith("s3.")}
    torch.save({"model": part, "matching_heuristics": True}, tmp_path / "part.pth")
    found = fit(cfg, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"its backbone.*bottom_up\.s3"):
        found.check("w", whole=False)
    found.check("w", whole=False, allow_missing=True)


def test_offsets_of_deformable_convolutions_begin_at_zero(tmp_path):
    torch.manual_seed(0)
    source = build_regnet(get_arch("RegNetX-200MF"), norm="BN").state_dict()
    torch.save({"model": source, "matching_heuristics": True}, tmp_path / "x.pth")
    found = fit(load_config("faster_rcnn_regnetx_200mf_dcn_fpn_1x"), tmp_path / "x.pth")
    assert any("conv_offset" in layer for layer in found.anew) and not found.backbone_lacks


@pytest.mark.parametrize(
    "meta, told",
    [
        (
            {"input_format": "RGB"},
            "trained on RGB images, the config's are BGR.*--input-format BGR",
        ),
        ({"input_format": "BGR", "pixel_std": [1.0, 1.0, 1.0]}, r"pixel_std \[1, 1, 1\]"),
        ({"pixel_mean": [0.0, 0.0, 0.0]}, r"pixel_mean \[0, 0, 0\]"),
    ],
)
def test_images_that_the_weights_were_not_trained_on(cfg, tiny_run, tmp_path, meta, told):
    whole = torch.load(tiny_run / "model_final.pth")["model"]
    torch.save({"model": whole, **meta}, tmp_path / "w.pth")
    found = fit(cfg, tmp_path / "w.pth")
    assert len(found.contradictions) == 1
    with pytest.raises(ValueError, match=told):
        found.check("w", whole=True)
    found.check("w", whole=False)  # said, and the training learns it


def test_the_same_statistics_in_the_other_order_are_one_contradiction(cfg, tiny_run, tmp_path):
    whole = torch.load(tiny_run / "model_final.pth")["model"]
    mean = list(reversed(cfg.model.pixel_mean))
    torch.save({"model": whole, "input_format": "RGB", "pixel_mean": mean}, tmp_path / "w.pth")
    assert len(fit(cfg, tmp_path / "w.pth").contradictions) == 1


@pytest.mark.parametrize("where", ["classes", "run"])
def test_classes_of_other_names_or_in_another_order(cfg, tiny_run, tmp_path, where):
    whole = torch.load(tiny_run / "model_final.pth")["model"]
    own = ["cat", "dog", "Traffic_light", "a", "b", "c"]
    meta = {"classes": own} if where == "classes" else {"run": {"classes": own}}
    torch.save({"model": whole, **meta}, tmp_path / "w.pth")
    found = fit(cfg, tmp_path / "w.pth")
    for same in (own, ["Cat", "dog", "traffic light", "a", "b", "c"], [], ["cow"]):
        for training in (True, False):
            assert found.check("w", whole=not training, classes=same) == ()
    turned = ["dog", "cat", *own[2:]]
    told = "classes are those .* in another order: class 1 is 'cat' in the weights, and 'dog' in"
    for training in (True, False):
        with pytest.raises(ValueError, match=told):
            found.check("w", whole=not training, classes=turned)
        assert found.check("w", whole=not training, allow_missing=True, classes=turned)
    others = [*own[:5], "cow"]
    (said,) = found.check("w", whole=False, classes=others)
    assert "not those of the data set: class 6 is 'c' in the weights, and 'cow' in the" in said
    with pytest.raises(ValueError, match="class 6 is 'c' in the weights"):
        found.check("w", whole=True, classes=others)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(cfg, tiny_run, tmp_path, value):
    whole = torch.load(tiny_run / "model_final.pth")["model"]
    whole["roi_heads.box_predictor.cls_score.bias"][1] = value
    torch.save({"model": whole}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="1 of .* not finite, such as roi_heads.*cls_score.bias"):
        fit(cfg, tmp_path / "w.pth")


def test_other_checkpoints_are_refused(cfg, tmp_path, monkeypatch):
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="nothing of this model.*convert"):
        fit(cfg, tmp_path / "other.pth")
    monkeypatch.setenv("D2_REGNET_MIRROR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="cannot be fetched .*--weights none"):
        fit(cfg, "regnet://mmdet/mask_rcnn_regnetx_400mf_fpn_3x")


def test_a_whole_pickled_model_is_refused_with_its_remedy(cfg, tmp_path):
    import timm

    torch.save(timm.create_model("regnetx_002"), tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"timm.*save its weights alone: torch.save\(model.state"):
        fit(cfg, tmp_path / "whole.pth")
