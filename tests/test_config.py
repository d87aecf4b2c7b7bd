"""MODEL.REGNETS: what it builds, and what it refuses."""

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone

from d2_regnet import add_regnet_config, get_arch
from d2_regnet.config import regnet_arguments


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_regnet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_regnet_backbone"
    return cfg


EXPLICIT = ["DEPTH", 13, "W_0", 24, "W_A", 36.44, "W_M", 2.49, "GROUP_WIDTH", 8]


def merge(cfg, settings):
    keys = [f"MODEL.REGNETS.{key}" for key in settings[::2]]
    cfg.merge_from_list([x for pair in zip(keys, settings[1::2]) for x in pair])


def test_arch_by_name_or_by_parameters(cfg):
    merge(cfg, ["ARCH", "regnetx_200mf"])
    assert regnet_arguments(cfg)["arch"] == get_arch("RegNetX-200MF")
    merge(cfg, ["ARCH", "", *EXPLICIT])
    assert regnet_arguments(cfg)["arch"] == get_arch("RegNetX-200MF")
    merge(cfg, ["SE_RATIO", 0.25])
    assert regnet_arguments(cfg)["arch"] == get_arch("RegNetY-200MF")


def test_yaml_round_trip(cfg, tmp_path):
    merge(cfg, ["ARCH", "RegNetY-800MF", "NORM", "EvalBN"])
    (tmp_path / "row.yaml").write_text(cfg.dump())
    other = get_cfg()
    add_regnet_config(other)
    other.merge_from_file(str(tmp_path / "row.yaml"))
    assert other.MODEL.REGNETS == cfg.MODEL.REGNETS


@pytest.mark.parametrize(
    "settings, reason",
    [
        ([], "give ARCH"),
        (["ARCH", "RegNetX-1GF"], "unknown RegNet 'RegNetX-1GF'"),
        (["ARCH", "RegNetX-200MF", "DEPTH", 13], "ARCH is 'RegNetX-200MF' and DEPTH given too"),
        (["ARCH", "RegNetX-200MF", "SE_RATIO", 0.25], "SE_RATIO given too"),
        ([*EXPLICIT, "W_M", 0.5], "w_m=0.5 must be above 1"),
        (["DEPTH", 13], "w_0 must be a positive integer"),
        (["ARCH", "RegNetX-200MF", "DEFORM_ON_PER_STAGE", [True]], "DEFORM_ON_PER_STAGE has 1"),
        (
            ["ARCH", "RegNetX-200MF", "OUT_FEATURES", ["res2"]],
            "REGNETS.OUT_FEATURES: .*no stage 'res2'",
        ),
        (["ARCH", "RegNetX-200MF", "NORM", "GN"], "REGNETS.NORM: .*'GN' does not fit 24 channels"),
        (
            ["ARCH", "RegNetX-200MF", "ACTIVATION_CHECKPOINT", ["s9"]],
            "REGNETS.ACTIVATION_CHECKPOINT: .*no stage 's9'",
        ),
    ],
)
def test_contradictory_settings_are_refused(cfg, settings, reason):
    merge(cfg, settings)
    with pytest.raises(ValueError, match=reason):
        build_backbone(cfg)


def test_freeze_at_is_checked(cfg):
    merge(cfg, ["ARCH", "RegNetX-200MF"])
    cfg.MODEL.BACKBONE.FREEZE_AT = 7
    with pytest.raises(
        ValueError, match="MODEL.BACKBONE.FREEZE_AT: freeze_at must be 0 to 5, not 7"
    ):
        build_backbone(cfg)


def test_unknown_key_is_refused_by_name(cfg):
    with pytest.raises(KeyError, match=r"MODEL\.REGNETS\.DEPHT"):
        cfg.merge_from_other_cfg(type(cfg)({"MODEL": {"REGNETS": {"DEPHT": 3}}}))


def test_forgotten_add_regnet_config_is_named():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_regnet_backbone"
    with pytest.raises(ValueError, match="add_regnet_config"):
        build_backbone(cfg)
