"""Submitting trainings: what is printed, what SLURM gets, and a job that runs on this machine."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def arguments(fixtures, tmp_path):
    """Of two machines with two GPUs each."""
    return [
        "--config-file",
        str(fixtures / "tiny_mask_rcnn.py"),
        *("--nodes", "2", "--gpus-per-node", "2", "--partition", "gpu", "--qos", "high"),
        *("--time", "2-0", "--account", "vision", "--sbatch", "mem=64G"),
        f"train.output_dir={tmp_path / 'run'}",
        "dataloader.train.total_batch_size=4",
    ]


def sbatch(text):
    return {line for line in text.splitlines() if line.startswith("#SBATCH")}


def test_dry_run_prints_what_would_be_submitted(tool, arguments, capsys, tmp_path):
    assert tool.main([*arguments, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert sbatch(printed) == {
        "#SBATCH --account=vision",
        "#SBATCH --cpus-per-task=5",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --job-name=tiny_mask_rcnn",
        "#SBATCH --mem=64G",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=2",
        "#SBATCH --partition=gpu",
        "#SBATCH --qos=high",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR1@180",
        "#SBATCH --time=2880",
    }
    command = printed.splitlines()[-1]
    assert command.startswith("d2-regnet train --config-file ")
    assert command.endswith("dataloader.train.total_batch_size=4")
    assert not (tmp_path / "run").exists()


def test_slurm_gets_what_the_dry_run_prints(tool, arguments, capsys, tmp_path, monkeypatch):
    """A SLURM of two scripts: srun, which is only looked for, and sbatch, which keeps the file."""
    pytest.importorskip("submitit")
    commands = tmp_path / "bin"
    commands.mkdir()
    kept = tmp_path / "kept.sh"
    for name, text in (("srun", ""), ("sbatch", f"cp $1 {kept}; echo Submitted batch job 42")):
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    tool.main([*arguments, "--dry-run"])
    lines = sbatch(capsys.readouterr().out)
    assert tool.main(arguments) == 0
    assert "Job 42" in capsys.readouterr().out
    assert lines <= sbatch(kept.read_text())
    assert "srun" in kept.read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nodes", "0"], "--nodes must be at least 1"),
        (["--gpus-per-node", "-1"], "--gpus-per-node must be at least 0"),
        (["--tasks-per-node", "3"], "one process for each GPU"),
        (["--time", "soon"], "'soon'"),
        (["--sbatch", "mem"], "NAME=VALUE"),
        (["--cluster", "local"], "local is one machine"),
        (["--nodes", "3"], "does not divide among 6"),
        (["train.max_itr=1"], "unknown key train.max_itr"),
        ([], "srun is not found"),
    ],
)
def test_refused_in_one_line(tool, arguments, refused, monkeypatch, tmp_path, flags, message):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert message in refused(tool.main, *arguments, *flags)
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.slow
def test_local_job_stops_and_is_requeued(root, fixtures, tmp_path):
    """Through submitit, two processes: SIGUSR1 as before the end of the time, and the end."""
    pytest.importorskip("submitit")
    out = tmp_path / "run"
    command = [sys.executable, "-W", "ignore", "-m", "d2_regnet", "slurm"]
    command += ["--config-file", str(fixtures / "tiny_mask_rcnn.py"), "--cluster", "local"]
    command += ["--gpus-per-node", "0", "--tasks-per-node", "2", f"train.output_dir={out}"]
    command += ["train.device=cpu", "train.max_iter=60", "train.checkpointer.period=1000"]
    environment = {"D2_REGNET_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
    metrics = out / "metrics.json"
    while not metrics.exists() or not metrics.stat().st_size:
        assert job.poll() is None
        time.sleep(0.05)
    # The job: its controller's children, which are its tasks.
    number = job.stdout.readline().split()[1].rstrip(";")
    with open(f"/proc/{number}/task/{number}/children") as file:
        for task in file.read().split():
            os.kill(int(task), signal.SIGUSR1)
    assert job.wait(timeout=300) == 0
    job.stdout.close()
    log = (out / "log.txt").read_text()
    assert "SIGUSR1: stopping after this step" in log
    stopped = sorted(path.name for path in out.glob("model_*.pth"))
    assert len(stopped) == 2 and stopped[1] == "model_final.pth"
    assert int(stopped[0][6:-4]) > 0
    assert torch.load(out / "model_final.pth", weights_only=False)["iteration"] == 59
    assert (out / "log.txt.rank1").exists()
