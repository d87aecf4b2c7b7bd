"""What spinning costs: the table by hand, and a load that ends with its measurement."""

import os

import pytest

from benchmarks import neighbours
from benchmarks.__main__ import main


def test_table():
    medians = {
        ("step", "default", "idle"): 0.2,
        ("step", "default", "1 busy thread"): 3.6,
        ("step", "1000", "idle"): 0.206,
        ("step", "1000", "1 busy thread"): 1.9,
    }
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in neighbours.table(medians).splitlines()
    ]
    assert lines[0] == ["", "spins", "idle, s", "1 busy thread, s", "idle, beside default"]
    assert lines[2:] == [
        ["step", "default", "0.200", "3.600", "+0.0 %"],
        ["step", "1000", "0.206", "1.900", "+3.0 %"],
    ]


@pytest.mark.parametrize("setting", ["default", "1000", "passive"])
def test_a_process_has_the_setting_and_no_other(monkeypatch, setting):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    code = f"import os; print(*map(os.environ.get, {neighbours._VARIABLES})); input()"
    kept = {}

    def printed(command, **kwargs):
        kept.update(kwargs["env"])
        return popen(command, **kwargs)

    popen = neighbours.subprocess.Popen
    monkeypatch.setattr(neighbours.subprocess, "Popen", printed)
    command = [neighbours.sys.executable, "-c", code]
    with neighbours.process(command, neighbours.SETTINGS[setting]) as child:
        assert child.poll() is None
    assert child.poll() is not None
    found = {key: kept[key] for key in neighbours._VARIABLES if key in kept}
    assert found == neighbours.SETTINGS[setting] and "PATH" in kept


def test_a_process_that_fails_is_an_error():
    with (
        pytest.raises(RuntimeError, match="has failed"),
        neighbours.process([neighbours.sys.executable, "-c", "raise SystemExit"], {}),
    ):
        pass


def test_a_busy_thread_is_one():
    code = neighbours._CODE[neighbours._THREAD]
    with neighbours.process([neighbours.sys.executable, "-c", code], {}) as child:
        os.kill(child.pid, 0)
        assert child.poll() is None
    assert child.poll() is not None


def test_dry_run(capsys):
    assert main(["neighbours", "--dry-run", "--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "idle: default, 1000, 10000, 100000, passive" and len(lines) == 3


WORKER = """
import os, sys
from benchmarks import neighbours
spins = float(os.environ.get("GOMP_SPINCOUNT", 0))
neighbours.work = lambda size: [int, int]
neighbours.repeated = lambda once, seconds: [spins, spins + size[0], seconds]
size = [float(each) for each in sys.argv[1:3]]
neighbours.worker(*sys.argv[1:])
"""


def test_every_setting_measures_under_every_load(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    monkeypatch.setattr(neighbours, "_WORKER", ["-c", WORKER])
    loads = {"idle": [], "1 busy thread": [neighbours._THREAD]}
    monkeypatch.setattr(neighbours, "LOADS", loads)
    assert main(["neighbours", "--rounds", "2", "--size", "100", "64", "--seconds", "7"]) == 0
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()[2:]
    ]
    assert [line[:2] for line in lines] == [
        [work, setting] for work in ("step", "inference") for setting in neighbours.SETTINGS
    ]
    # The medians of 0, 100 and 7, and of 1000, 1100 and 7.
    found = {tuple(line[:2]): line[2:4] for line in lines}
    assert found["step", "default"] == found["inference", "passive"] == ["7.000", "7.000"]
    assert found["step", "1000"] == ["1000.000", "1000.000"]
