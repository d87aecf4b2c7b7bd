"""How many processes the flags, or torchrun, ask for."""

import pytest
import torch

from d2_regnet.engine.launch import argument_parser, check_processes


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with four GPUs, outside torchrun."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def count(flags, device="cuda"):
    return check_processes(argument_parser().parse_args(flags.split()), device)


@pytest.mark.parametrize(
    "flags, device, processes",
    [
        ("", "cuda", 1),
        ("--num-gpus 0", "cuda", 1),
        ("--num-gpus 4", "cuda", 4),
        ("--num-gpus 6", "cpu", 6),
        ("--num-gpus 4 --num-machines 3 --machine-rank 2 --dist-url tcp://a:1", "cuda", 12),
    ],
)
def test_count(flags, device, processes):
    assert count(flags, device) == processes


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--num-gpus 5", "--num-gpus 5: this machine has 4"),
        ("--num-gpus -1", "--num-gpus"),
        ("--num-machines 0", "--num-machines"),
        ("--machine-rank 1", "--machine-rank 1"),
        ("--num-machines 2 --machine-rank -1", "--machine-rank -1"),
        ("--num-machines 2 --dist-url auto", "--dist-url"),
    ],
)
def test_refused(flags, words):
    with pytest.raises(ValueError, match=words):
        count(flags)


def test_one_process_needs_no_gpu(machine):
    machine.setattr(torch.cuda, "device_count", lambda: 0)
    assert count("") == count("--num-gpus 1") == 1
    with pytest.raises(ValueError, match="this machine has 0"):
        count("--num-gpus 2")


def test_torchrun_counts_itself(machine):
    for name, value in dict(RANK=5, WORLD_SIZE=8, LOCAL_RANK=1, LOCAL_WORLD_SIZE=4).items():
        machine.setenv(name, str(value))
    assert count("") == 8
    machine.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(ValueError, match="8 processes, but there are 4"):
        count("")
    assert count("", device="cpu") == 8
