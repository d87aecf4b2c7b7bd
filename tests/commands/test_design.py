"""The design tool's command line: what each command prints, writes and refuses."""

import csv
import json

import pytest
import yaml

from d2_regnet import model_zoo
from d2_regnet.archs import get_arch
from d2_regnet.commands.train import main as train
from d2_regnet.data import register_shapes
from d2_regnet.design import study
from d2_regnet.engine import load_config

TINY = "depth: 6\nw_0: 8\nw_a: 8\nw_m: 2\ngroup_width: 8\n"


@pytest.fixture
def design(tool, tmp_path, monkeypatch, capsys):
    """design("describe", ...) in a folder with tiny.yaml: what it printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)

    def run(*arguments):
        assert tool.main([str(each) for each in arguments]) == 0
        return capsys.readouterr().out

    return run


def test_describe(design, tool, tmp_path, refused):
    out = design("describe", "regnetx_3.2gf", "tiny.yaml", "--plot", "w.png", "--size", "64")
    assert "RegNetX-3.2GF: RegNetX, depth 25" in out and "tiny: RegNetX, depth 6" in out
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")
    again = "describe tiny.yaml --plot w.png".split()
    before = (tmp_path / "w.png").read_bytes()
    assert "w.png exists; --overwrite replaces it" in refused(tool.main, *again)
    assert (tmp_path / "w.png").read_bytes() == before
    assert "Wrote w.png" in design(*again, "--overwrite")
    facts = json.loads(design("describe", "RegNetY-400MF", "--json"))
    assert facts["RegNetY-400MF"]["total"]["params"] == 4344144


def test_sample_writes_archs_that_stand_for_themselves(design, tmp_path):
    out = design("sample", "--flops=400MF", "--n=3", "--family=Y", "--output=out", "--seed=5")
    assert "group_width" in out and "Wrote out: samples.csv" in out
    rows = list(csv.DictReader((tmp_path / "out/samples.csv").open()))
    assert [row["name"] for row in rows] == [f"regnety_400mf_000{i}" for i in (1, 2, 3)]
    for row, same in zip(rows, json.loads((tmp_path / "out/samples.json").read_text())):
        arch = get_arch(tmp_path / "out/archs" / f"{row['name']}.yaml")
        assert arch.complexity().flops == int(row["flops"]) == same["flops"]
        assert (arch.family, arch.w_a) == ("Y", float(row["w_a"]))
    assert (tmp_path / "out/samples.png").is_file()
    assert "3" in design("describe", "out/archs/regnety_400mf_0003.yaml")


def test_sample_dry_run_writes_nothing(design, tmp_path):
    out = design("sample", "--flops=400MF", "--output=out", "--dry-run")
    assert "Would write 500 archs" in out and not (tmp_path / "out").exists()


def test_pick(design, tmp_path):
    (tmp_path / "larger.yaml").write_text(TINY.replace("w_0: 8", "w_0: 16"))
    common = ["--size=64x96", "--rounds=2", "--device=cpu", "--candidates", "tiny.yaml"]
    out = design("pick", "--budget-ms=1e6", *common, "larger.yaml", "--plot=pick.png")
    assert "Within 1e+06 ms: larger" in out and "stand-in" in out and " -0." not in out
    assert (tmp_path / "pick.png").is_file()
    found = json.loads(design("pick", "--budget-ms=1e-6", *common, "--train", "--json"))
    assert found["pick"] is None and found["frontier"] == ["tiny"]
    assert found["timings"]["tiny"]["median"] > 0
    assert "Nothing within 1e-06 ms: the fastest, tiny, takes" in design(
        "pick", "--budget-ms=1e-6", *common
    )
    assert "Would time" in design("pick", "--budget-ms=1", *common, "--dry-run")


def test_edf(design, tmp_path, monkeypatch):
    make_crops = study.make_crops
    monkeypatch.setattr(study, "make_crops", lambda split, _, seed: make_crops(split, 2, seed))
    command = ["edf", "--n=2", "--flops=40MF", "--steps=1", "--batch-size=2", "--output=out"]
    assert "Would train 4" in design(*command, "--dry-run") and not (tmp_path / "out").exists()
    out = design(*command)
    assert "mean error of constrained minus that of anynet_a" in out
    assert (tmp_path / "out/edf.png").is_file()
    assert "Would train 0" in design(*command, "--dry-run")


@pytest.mark.parametrize(
    "arguments, said",
    [
        ("describe RegNetX-401MF", "unknown RegNet"),
        ("describe nowhere.yaml", "no file nowhere.yaml"),
        ("describe RegNetX-400MF --size 10", "too small"),
        ("describe RegNetX-400MF --plot no/where.png", "there is no folder no"),
        ("describe RegNetX-400MF --plot w.jpg", "does not end in .png"),
        ("sample --flops 400 --output out", "not a number of multiply-adds"),
        ("sample --flops 400MF --output .", "is not empty"),
        ("sample --flops 400MF --n 0 --output out", "n >= 1"),
        ("pick --budget-ms 0", "above 0"),
        ("pick --budget-ms 40 --device cuda", "no GPU"),
        ("pick --budget-ms 40 --device gpu", "it is cpu or cuda"),
        ("pick --budget-ms 40 --rounds 0", "at least 1"),
        ("edf --output tiny.yaml", "is not a folder"),
        ("edf --output out --steps 0", "steps must be at least 1"),
        ("edf --output out --spaces nowhere", "invalid choice"),
    ],
)
def test_bad_input_ends_in_one_line(tool, design, tmp_path, refused, arguments, said):
    before = sorted(tmp_path.iterdir())
    assert said in refused(tool.main, *arguments.split())
    assert sorted(tmp_path.iterdir()) == before


def test_an_arch_of_ones_own_is_trained(design, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    register_shapes(9, {"train": 4})
    train(
        [
            "--config-file=mask_rcnn_tiny.yaml_fpn_1x", "train.device=cpu", "train.max_iter=1",
            "train.output_dir=out", "dataloader.train.dataset.names=shapes_seed9_train4",
            "dataloader.test.dataset.names=shapes_seed9_train4",
            "dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0",
            "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
            "dataloader.evaluator=null", "model.roi_heads.num_classes=6",
        ]
    )  # fmt: skip
    capsys.readouterr()
    config = yaml.unsafe_load((tmp_path / "out/config.yaml").read_text())
    # What was trained is in the run, whatever becomes of the file.
    assert config["model"]["backbone"]["bottom_up"]["arch"]["w_a"] == 8
    assert json.loads((tmp_path / "out/metrics.json").read_text().splitlines()[0])["total_loss"] > 0
    assert (tmp_path / "out/model_final.pth").is_file()


def test_an_arch_of_ones_own_by_an_override(design):
    name = "retinanet_regnetx_800mf_fpn_1x"
    cfg = load_config(name, ["model.backbone.bottom_up.arch=tiny.yaml"])
    assert (
        cfg.model.backbone.bottom_up.arch
        == model_zoo.get_config("retinanet_tiny.yaml_fpn_1x").model.backbone.bottom_up.arch
    )
