"""The table of where communication bounds training: as documented, and what it refuses."""

import pytest


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_prints_the_documented_line(tool, root, capsys):
    assert tool.main(["--speed", "8", "mask_rcnn_regnetx_400mf_fpn_1x"]) == 0
    header, _, line = map(cells, capsys.readouterr().out.splitlines())
    assert line[0] == "mask_rcnn_regnetx_400mf_fpn_1x"
    documented = (root / "docs" / "SCALING.md").read_text().splitlines()
    assert header in [cells(each) for each in documented]
    (same,) = (cells(each) for each in documented if each.startswith("| RegNetX-400MF "))
    assert line[1:] == same[1:]


def test_dry_run_counts_nothing(tool, monkeypatch, capsys):
    monkeypatch.delattr(tool, "measured")
    assert tool.main(["--dry-run"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 24 and rows[0] == "mask_rcnn_regnetx_200mf_fpn_1x"
    assert tool.main(["--dry-run", "retinanet_regnetx_800mf_fpn_1x"]) == 0
    assert capsys.readouterr().out == "retinanet_regnetx_800mf_fpn_1x\n"


def test_a_retinanet(tool, capsys):
    assert tool.main(["retinanet_regnetx_800mf_fpn_1x"]) == 0
    assert "retinanet_regnetx_800mf_fpn_1x" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--speed", "0"], "--speed must be positive"), (["mask_rcnn_x"], "unknown")],
)
def test_refused_in_one_line(tool, refused, arguments, message):
    assert message in refused(tool.main, *arguments)
