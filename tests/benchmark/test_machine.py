import pytest
import torch

from d2_regnet.benchmark import machine


def test_what_is_measured(monkeypatch):
    monkeypatch.setattr(machine, "_SIDE", {"cpu": 128})
    monkeypatch.setattr(machine, "_COPIED", 2**20)
    found = machine.measured("cpu", ["float32", "bfloat16"])
    assert found["torch"] == torch.__version__ and found["threads"] == torch.get_num_threads()
    assert found["processor"] and set(found["peak"]) == {"float32", "bfloat16"}
    assert min(found["bandwidth"], *found["peak"].values()) > 0


def test_peak_counts_multiply_adds(monkeypatch):
    monkeypatch.setattr(machine, "_SIDE", {"cpu": 100})
    timing = type("Timing", (), {"median": 0.5})
    monkeypatch.setattr(machine, "take_turns", lambda runs, **_: dict.fromkeys(runs, timing))
    assert machine.peak() == pytest.approx(100**3 / 0.5)
    monkeypatch.setattr(machine, "_COPIED", 1000)
    assert machine.bandwidth() == pytest.approx(2 * 1000 / 0.5)
