"""Where communication bounds training, against numbers worked out by hand."""

import json
from math import inf

import pytest
from torch import nn

from benchmarks import scaling
from benchmarks.__main__ import main


def test_gradients_of_what_is_trained():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    assert scaling.gradient_bytes(model) == 4 * 3
    assert scaling.gradient_bytes(model, bytes_each=2) == 2 * 3


def test_ring():
    """160 MB among 4: each sends 3/4 of them twice, 240 MB, in 6 turns of each of 7 buckets."""
    assert scaling.ring_seconds(160_000_000, 4, 1e9, latency=0) == pytest.approx(0.24)
    assert scaling.ring_seconds(160_000_000, 4, 1e9, latency=0.001) == pytest.approx(0.24 + 0.042)
    assert scaling.ring_seconds(160_000_000, 1, 1e9) == 0


def test_efficiency():
    """0.3 s, of which 0.2 are backward: 0.2 s are hidden, of 0.5 s 0.3 are waited for."""
    assert scaling.efficiency(0.3, 0.2) == pytest.approx(1)
    assert scaling.efficiency(0.3, 0.1) == 1
    assert scaling.efficiency(0.3, 0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("gpus", [8, 64, 512])
def test_hidden_from_that_bandwidth_on(gpus):
    needed = scaling.hiding_bandwidth(180_000_000, gpus, 0.25)
    time = scaling.ring_seconds(180_000_000, gpus, needed)
    assert time == pytest.approx(scaling.BACKWARD * 0.25)
    assert scaling.hiding_bandwidth(180_000_000, 10**6, 0.25) == inf


def test_reference_is_the_measured_row(root):
    rows = json.loads((root / "d2_regnet" / "model_zoo" / "zoo.json").read_text())
    assert rows["mask_rcnn_r50_fpn_1x"]["flops"] == scaling.REFERENCE_FLOPS
    assert scaling.step_seconds(scaling.REFERENCE_FLOPS) == scaling.REFERENCE_SECONDS
    assert scaling.step_seconds(scaling.REFERENCE_FLOPS, speed=2) == scaling.REFERENCE_SECONDS / 2


def scaled(arguments):
    return main(["scaling", *arguments])


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_prints_the_documented_line(root, capsys):
    assert scaled(["--speed", "8", "mask_rcnn_regnetx_400mf_fpn_1x"]) == 0
    header, _, line = map(cells, capsys.readouterr().out.splitlines())
    assert line[0] == "mask_rcnn_regnetx_400mf_fpn_1x"
    documented = (root / "docs" / "results" / "scaling.md").read_text().splitlines()
    assert header in [cells(each) for each in documented]
    (same,) = (cells(each) for each in documented if each.startswith("| RegNetX-400MF "))
    assert line[1:] == same[1:]


def test_dry_run_counts_nothing(monkeypatch, capsys):
    monkeypatch.delattr(scaling, "measured")
    assert scaled(["--dry-run"]) == 0
    models = capsys.readouterr().out.splitlines()
    assert len(models) == 24 and models[0] == "mask_rcnn_regnetx_200mf_fpn_1x"
    assert scaled(["--dry-run", "retinanet_regnetx_800mf_fpn_1x"]) == 0
    assert capsys.readouterr().out == "retinanet_regnetx_800mf_fpn_1x\n"


def test_a_retinanet(capsys):
    assert scaled(["retinanet_regnetx_800mf_fpn_1x"]) == 0
    assert "retinanet_regnetx_800mf_fpn_1x" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--speed", "0"], "--speed must be positive"), (["mask_rcnn_x"], "unknown")],
)
def test_refused_in_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        scaled(arguments)
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert message in err
