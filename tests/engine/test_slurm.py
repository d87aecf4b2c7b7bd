"""What a SLURM job is asked for, and what it runs."""

import sys

import pytest

from d2_regnet.engine.slurm import Training, executor, minutes, sbatch_lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1:30", 2), ("2:00:00", 120), ("1-0", 1440), ("2-12:30", 3630), ("0-0:0:1", 1)],
)
def test_minutes(text, expected):
    """The notations of sbatch's manual."""
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "x", "1h", "0", "-5", "1-0:0:0:0", "1:2:3:4"])
def test_no_duration(text):
    with pytest.raises(ValueError, match="duration"):
        minutes(text)


def test_sbatch_lines():
    parameters = dict(
        nodes=2,
        ntasks_per_node=8,
        signal_delay_s=60,
        additional_parameters={"requeue": True, "mem": "9G"},
    )
    assert sbatch_lines(parameters) == [
        "#SBATCH --mem=9G",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=8",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR1@60",
    ]


def test_goes_on_when_it_is_requeued():
    pytest.importorskip("submitit")
    again = Training(print, ["--config-file", "f", "a=1"]).checkpoint().function
    assert again.argv == ["--resume", "--config-file", "f", "a=1"]
    assert again.checkpoint().function.argv == again.argv


def test_without_submitit(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r"pip install 'd2_regnet\[slurm\]'"):
        executor("slurm", str(tmp_path), {}, 1)


def test_without_slurm(monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="no SLURM on this machine"):
        executor("slurm", str(tmp_path), {}, 1)
