"""Several processes, really started: equal to one, whole after a death, and ended by an error."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace

import pytest
import torch

TORCHRUN = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run"]
STANDALONE = [*TORCHRUN, "--standalone"]
A_MINUTE = 60  # what a failing group may take; far more than any of these needs


@pytest.fixture(scope="module")
def environment(tmp_path_factory, root):
    """For processes: one thread each, and a cache of their own."""
    return os.environ | {
        "D2_REGNET_CACHE": str(tmp_path_factory.mktemp("cache")),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(root),
        "PYTHONWARNINGS": "ignore",
        # Else a group that forms anew may read the addresses of the dead one (torch 2.14).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


@pytest.fixture
def start(environment, data):
    """start(command, script, *arguments): a process group, killed at the end of the test."""
    started = []

    def start(command, script, *arguments):
        process = subprocess.Popen(
            [*command, str(data / script), *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


@pytest.fixture
def run(start):
    """run(command, script, *arguments): what it printed, if it ended well."""

    def run(*arguments):
        process = start(*arguments)
        printed, _ = process.communicate(timeout=10 * A_MINUTE)
        assert process.returncode == 0, printed
        return printed

    return run


@pytest.fixture(scope="module")
def alone(environment, data, load_file, tmp_path_factory):
    """The output of many_processes.py in this one process."""
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D2_REGNET_CACHE", environment["D2_REGNET_CACHE"])
        load_file(data / "many_processes.py").main(Namespace(out=str(out)))
    return out


def assert_equal_runs(one, other):
    """Losses, weights and evaluations of two outputs of many_processes.py."""
    for detector in ("mask_rcnn", "retinanet"):
        weights, others = (weights_of(folder / detector) for folder in (one, other))
        assert weights.keys() == others.keys()
        for name, value in weights.items():
            torch.testing.assert_close(others[name], value, rtol=0, atol=1e-5, msg=name)
        losses, others = (losses_of(folder / detector) for folder in (one, other))
        assert len(losses) >= 6 and others == pytest.approx(losses, abs=1e-5)
    for pictures in (7, 5, 1):
        results, others = (evaluation(folder, pictures) for folder in (one, other))
        assert others["seen"] == results["seen"] == list(range(1, pictures + 1))
        assert len(results["predicted"]) > 10
        assert others["predicted"] == pytest.approx(results["predicted"], abs=1e-3)
        for task in ("bbox", "segm"):
            assert others[task] == pytest.approx(results[task], abs=1e-6, nan_ok=True)


def weights_of(folder):
    return torch.load(folder / "model_final.pth", weights_only=False)["model"]


def losses_of(folder):
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return {
        (line["iteration"], name): value
        for line in lines
        for name, value in line.items()
        if "loss" in name
    }


def evaluation(folder, pictures):
    folder = folder / f"{pictures}_pictures"
    results = json.loads((folder / "results.json").read_text())
    predicted = json.loads((folder / "coco_instances_results.json").read_text())
    results["predicted"] = {
        (each["image_id"], i, k): value
        for i, each in enumerate(sorted(predicted, key=lambda each: each["image_id"]))
        for k, value in enumerate([each["category_id"], each["score"], *each["bbox"]])
    }
    return results


def test_two_processes_equal_one(run, alone, tmp_path):
    run([*STANDALONE, "--nproc-per-node=2"], "many_processes.py", tmp_path)
    assert_equal_runs(alone, tmp_path)


@pytest.mark.slow
def test_four_processes_equal_one(run, alone, tmp_path):
    run([*STANDALONE, "--nproc-per-node=4"], "many_processes.py", tmp_path)
    assert_equal_runs(alone, tmp_path)


def run_on_two_machines(start, *arguments):
    """Two agents of torchrun, as on two machines, that find one another by an address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
    command += [f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=two", "--max-restarts=2"]
    agents = [start(command, *arguments) for _ in range(2)]
    for agent in agents:
        printed, _ = agent.communicate(timeout=10 * A_MINUTE)
        assert agent.returncode == 0, printed


@pytest.mark.slow
def test_two_machines_equal_one(start, alone, tmp_path):
    run_on_two_machines(start, "many_processes.py", tmp_path)
    assert_equal_runs(alone, tmp_path)
    assert sorted(path.name for path in (tmp_path / "mask_rcnn").glob("log.txt*")) == [
        "log.txt",
        "log.txt.rank1",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("machines", [1, 2])
def test_killed_process_is_started_again(run, start, tmp_path, machines):
    """Before the first checkpoint, and later: the end is that of a run that lived, bit for bit, and
    not that of the other run which has left its checkpoints in the folder."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    two = [*STANDALONE, "--nproc-per-node=2"]
    run(two, "faulty_process.py", whole)
    killed.mkdir()
    state = torch.load(whole / "model_final.pth", weights_only=False)
    state["model"] = {name: torch.zeros_like(value) for name, value in state["model"].items()}
    torch.save(state, killed / "model_0000006.pth")
    (killed / "last_checkpoint").write_text("model_0000006.pth")
    arguments = ("faulty_process.py", killed, "kill:1", "kill:5")
    if machines == 1:
        run([*two, "--max-restarts=2"], *arguments)
    else:
        run_on_two_machines(start, *arguments)
    for name, value in weights_of(whole).items():
        assert torch.equal(weights_of(killed)[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["raise:2", "raise:evaluation"])
@pytest.mark.parametrize("launcher", ["torchrun", "detectron2"])
def test_error_of_one_ends_all(start, tmp_path, launcher, fault):
    command = [sys.executable, "-W", "ignore"]
    if launcher == "torchrun":
        command = [*STANDALONE, "--nproc-per-node=2"]
    process = start(command, "faulty_process.py", tmp_path, fault)
    printed, _ = process.communicate(timeout=2 * A_MINUTE)
    assert process.returncode == 1
    assert "ValueError: the second process is ill" in printed
    # No process of the group is left. Those of torchrun are in sessions of their own.
    assert not running(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_to_the_launcher_ends_all(start, root, data, tmp_path, signum):
    tool = root / "tools" / "lazyconfig_train_net.py"
    process = start(
        [sys.executable, "-W", "ignore", str(tool), "--config-file"],
        "tiny_mask_rcnn.py",
        "--num-gpus=2",
        "train.device=cpu",
        f"train.output_dir={tmp_path}",
        "train.max_iter=100000",
        "train.scale_to_batch_size=false",
        "train.checkpointer.period=100000",
    )
    metrics = tmp_path / "metrics.json"
    while not metrics.exists() or not metrics.stat().st_size:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signum)
    printed, _ = process.communicate(timeout=2 * A_MINUTE)
    assert process.returncode == 128 + signum, printed
    newest = (tmp_path / "last_checkpoint").read_text()
    assert torch.load(tmp_path / newest, weights_only=False)["iteration"] > 0
    assert not running(str(tmp_path))


@pytest.mark.slow
def test_signal_ends_an_evaluation(start, tmp_path):
    """In two processes, after the first of the two pictures that each of them has."""
    process = start(
        [sys.executable, "-W", "ignore"], "faulty_process.py", tmp_path, "slow:evaluation"
    )
    evaluating = tmp_path / "evaluating"
    while not evaluating.exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=2 * A_MINUTE)
    assert process.returncode == 128 + signal.SIGTERM, printed
    assert evaluating.read_text() == 2 * "picture\n"
    assert (tmp_path / "model_final.pth").exists()


@pytest.mark.slow
def test_killed_process_ends_all(start, tmp_path):
    process = start([sys.executable, "-W", "ignore"], "faulty_process.py", tmp_path, "kill:2")
    printed, _ = process.communicate(timeout=2 * A_MINUTE)
    assert process.returncode == 1 and "SIGKILL" in printed
    assert not running(str(tmp_path))


def running(argument):
    """The processes with this in their command lines."""
    found = subprocess.run(["pgrep", "-f", argument], capture_output=True, text=True, check=False)
    return found.stdout.split()
