import pytest
import torch

from benchmarks import machine


def test_what_is_measured(monkeypatch):
    monkeypatch.setattr(machine, "_SIDE", {"cpu": 128})
    monkeypatch.setattr(machine, "_FEATURES", {"cpu": (1, 32, 16, 16)})
    monkeypatch.setattr(machine, "_COPIED", 2**20)
    found = machine.measured("cpu", ["float32", "bfloat16"])
    assert found["torch"] == torch.__version__ and found["threads"] == torch.get_num_threads()
    assert found["processor"] and set(found["peak"]) == {"float32", "bfloat16"}
    assert found["bandwidth"] > 0
    for name, own in found["rates"].items():
        assert 0 < min(own.values()) <= found["peak"][name] == max(own.values())


def test_the_faster_of_two_measurements_counts():
    rates = [{"float32": {"matrix product": a, "convolution": b}} for a, b in ((5, 7), (8, 6))]
    before, after = (
        {"cores": 2, "rates": each, "peak": {"float32": max(each["float32"].values())}}
        | {"bandwidth": bandwidth}
        for each, bandwidth in zip(rates, (20, 10))
    )
    assert machine.fastest(before, after) == {
        "cores": 2,
        "rates": {"float32": {"matrix product": 8, "convolution": 7}},
        "peak": {"float32": 8},
        "bandwidth": 20,
    }


def test_rates_count_multiply_adds_of_the_fastest_run(monkeypatch):
    monkeypatch.setattr(machine, "_SIDE", {"cpu": 100})
    monkeypatch.setattr(machine, "_FEATURES", {"cpu": (2, 8, 5, 7)})
    seconds = [0.7, 0.5, 0.9]
    monkeypatch.setattr(machine, "_seconds", lambda run, device: seconds)
    assert machine.rates() == pytest.approx(
        {"matrix product": 100**3 / 0.5, "convolution": 2 * 5 * 7 * 8 * 8 * 9 / 0.5}
    )
    monkeypatch.setattr(machine, "_COPIED", 1000)
    assert machine.bandwidth() == pytest.approx(2 * 1000 / 0.7)
