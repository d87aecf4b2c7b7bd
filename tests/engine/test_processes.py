"""Several processes, really started: equal to one, whole after a death, and ended by an error."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace

import pytest
import torch

from d2_regnet.engine.replay import inexact, load_model, read_batch, replay, same

from .test_continuation import EVERYTHING, assert_same

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
def start(environment, fixtures):
    """start(command, script, *arguments): a process group, killed at the end of the test."""
    started = []

    def start(command, script, *arguments):
        process = subprocess.Popen(
            [*command, str(fixtures / script), *map(str, arguments)],
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
def alone(environment, fixtures, load_file, tmp_path_factory):
    """The output of many_processes.py in this one process."""
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D2_REGNET_CACHE", environment["D2_REGNET_CACHE"])
        load_file(fixtures / "many_processes.py").main(Namespace(out=str(out)))
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
@pytest.mark.parametrize("machines, then", [(1, "kill:5"), (1, "cut:4"), (2, "kill:5")])
def test_killed_process_is_started_again(run, start, tmp_path, machines, then):
    """Before the first checkpoint, and later, also while one is written: the end is that of a run
    that lived, bit for bit, and not that of the other run which has left its checkpoints in the
    folder."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    two = [*STANDALONE, "--nproc-per-node=2"]
    run(two, "faulty_process.py", whole)
    killed.mkdir()
    state = torch.load(whole / "model_final.pth", weights_only=False)
    state["model"] = {name: torch.zeros_like(value) for name, value in state["model"].items()}
    torch.save(state, killed / "model_0000006.pth")
    (killed / "last_checkpoint").write_text("model_0000006.pth")
    arguments = ("faulty_process.py", killed, "kill:1", then)
    if machines == 1:
        run([*two, "--max-restarts=2"], *arguments)
    else:
        run_on_two_machines(start, *arguments)
    for name, value in weights_of(whole).items():
        assert torch.equal(weights_of(killed)[name], value), name
    assert not list(killed.glob(".*.partial"))


@pytest.mark.slow
def test_goes_on_in_another_number_of_processes(
    start, environment, fixtures, load_file, tmp_path, monkeypatch
):
    """Two until one is killed, then one: as if it had been one from the start."""
    for name in ("D2_REGNET_CACHE", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"):
        monkeypatch.setenv(name, environment[name])
    main = load_file(fixtures / "faulty_process.py").main
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    main(Namespace(out=str(whole), faults=[], overrides=[]))
    two = [*STANDALONE, "--nproc-per-node=2"]
    process = start(two, "faulty_process.py", killed, "kill:5")
    printed, _ = process.communicate(timeout=2 * A_MINUTE)
    assert process.returncode == 1, printed
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    main(Namespace(out=str(killed), faults=[], overrides=[]))
    assert "Starting training from iteration 3" in (killed / "log.txt").read_text()
    for name, value in weights_of(whole).items():
        torch.testing.assert_close(weights_of(killed)[name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.slow
def test_all_options_outlast_kills(run, tmp_path):
    """Average, accumulated batches, best model, patience: bit for bit, in two processes."""
    two = [*STANDALONE, "--nproc-per-node=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(two, "faulty_process.py", whole, *EVERYTHING)
    run([*two, "--max-restarts=2"], "faulty_process.py", killed, "kill:1", "kill:6", *EVERYTHING)
    for name in ("model_final.pth", "model_best.pth"):
        one, other = (torch.load(folder / name, weights_only=False) for folder in (whole, killed))
        assert_same(one, other)


@pytest.mark.slow
def test_accumulated_batches_of_two_processes_equal_one(
    run, environment, fixtures, load_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("D2_REGNET_CACHE", environment["D2_REGNET_CACHE"])
    main = load_file(fixtures / "faulty_process.py").main
    own = "train.scale_to_batch_size=false"
    batch = "dataloader.train.total_batch_size=4"
    main(Namespace(out=str(tmp_path / "one"), faults=[], overrides=[batch, own]))
    two = [*STANDALONE, "--nproc-per-node=2"]
    run(two, "faulty_process.py", tmp_path / "two", "train.accumulate=2", own)
    for name, value in weights_of(tmp_path / "one").items():
        found = weights_of(tmp_path / "two")[name]
        torch.testing.assert_close(found, value, rtol=0, atol=1e-5, msg=name)


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


@pytest.mark.parametrize(
    "kind, what",
    [
        ("loss", "the loss is not finite: .*loss_cls (nan|inf)"),
        pytest.param("proposals", "Predicted boxes or scores", marks=pytest.mark.slow),
        pytest.param("gradient", "but the gradients are not: of", marks=pytest.mark.slow),
    ],
)
def test_what_is_not_finite_in_one_ends_all_and_is_replayed(
    start, load_file, fixtures, tmp_path, kind, what
):
    """With one error that names it; what is saved of the second process gives its very losses."""
    started = time.monotonic()
    process = start([*STANDALONE, "--nproc-per-node=2"], "faulty_process.py", tmp_path, f"{kind}:2")
    printed, _ = process.communicate(timeout=2 * A_MINUTE)
    assert process.returncode == 1 and time.monotonic() - started < A_MINUTE
    ranks = (0, 1) if kind == "gradient" else (1,)  # gradients are shared: both find them
    first = "process 0: .*; " * (0 in ranks)
    error = f"FloatingPointError: step 2: {first}process 1: .*{what}.*learning rate .*png"
    for log in ("log.txt", "log.txt.rank1"):
        assert re.search(error, (tmp_path / log).read_text()), printed
    folder = tmp_path / "non_finite"
    names = [f"step_0000002_rank{rank}.pth" for rank in ranks]
    assert sorted(path.name for path in folder.iterdir()) == names
    for rank, name in zip(ranks, names):
        batch = read_batch(folder / name)
        assert (batch["rank"], batch["processes"], len(batch["batch"])) == (rank, 2, 1)
        model = load_model(str(tmp_path / "config.yaml"), batch)
        if rank == 1:
            load_file(fixtures / "faulty_process.py").poison(model, kind)
        result = replay(model, batch)
        assert same(batch["losses"], result.losses) and not inexact(model, batch)
        assert bool(result.losses) != bool(result.error) == (kind == "proposals")
        if result.losses:  # it matters whose part of the batch it was
            other = replay(model, batch | {"rank": 1 - rank})
            assert not same(batch["losses"], other.losses)


@pytest.mark.slow
def test_what_is_not_finite_in_one_is_left_out_by_all(run, tmp_path):
    """Bitwise as if the optimizer had not stepped."""
    two = [*STANDALONE, "--nproc-per-node=2"]
    bad, without = tmp_path / "bad", tmp_path / "without"
    faults = "loss:1,proposals:3,gradient:5"
    run(two, "faulty_process.py", bad, faults, "train.non_finite.skip=1")
    for log in ("log.txt", "log.txt.rank1"):
        for step in (1, 3, 5):
            line = rf"Left out \(1 in a row, at most 1\): step {step}: .*process 1: "
            assert len(re.findall(line, (bad / log).read_text())) == 1
    run(two, "faulty_process.py", without, "without:1,without:3,without:5")
    found, expected = (
        torch.load(folder / "model_final.pth", weights_only=False) for folder in (bad, without)
    )
    momentum, others = (each["trainer"]["optimizer"]["state"] for each in (expected, found))
    assert momentum.keys() == others.keys() and momentum
    for index, state in momentum.items():
        assert torch.equal(others[index]["momentum_buffer"], state["momentum_buffer"])
    of_each = [torch.load(bad / f"weights{rank}.pth") for rank in range(2)]
    for name, value in expected["model"].items():
        for weights in (found["model"], *of_each):
            assert torch.equal(weights[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_to_the_launcher_ends_all(start, root, fixtures, tmp_path, signum):
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
def test_signal_before_there_is_a_training(start, tmp_path):
    process = start([sys.executable, "-W", "ignore"], "faulty_process.py", tmp_path)
    command = ["pgrep", "-f", "-P", str(process.pid), "spawn_main"]
    while len(subprocess.run(command, capture_output=True, check=False).stdout.split()) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=A_MINUTE)
    assert process.returncode == 128 + signal.SIGTERM, printed


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_signal_ends_an_evaluation(start, tmp_path, workers):
    """In two processes, after the first of the two images that each of them has."""
    process = start(
        [sys.executable, "-W", "ignore"],
        *("faulty_process.py", tmp_path, "slow:evaluation"),
        f"dataloader.test.num_workers={workers}",
    )
    evaluating = tmp_path / "evaluating"
    while not evaluating.exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=2 * A_MINUTE)
    assert process.returncode == 128 + signal.SIGTERM, printed
    assert evaluating.read_text() == 2 * "image\n"
    assert (tmp_path / "model_final.pth").exists()
    assert not running(str(tmp_path))


@pytest.mark.slow
def test_killed_process_ends_all(start, tmp_path):
    process = start([sys.executable, "-W", "ignore"], "faulty_process.py", tmp_path, "kill:2")
    printed, _ = process.communicate(timeout=2 * A_MINUTE)
    assert process.returncode == 1 and "SIGKILL" in printed
    assert not running(str(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the scheduler is Linux's")
def test_processes_end_well_where_threads_are_late(run):
    """Without a wait for gloo's threads, a third of the processes are aborted at their end."""
    printed = run([sys.executable, "-W", "ignore"], "slow_threads.py", 10)
    assert json.loads(printed.splitlines()[-1]) == [0] * 20


def running(argument):
    """The processes with this in their command lines."""
    found = subprocess.run(["pgrep", "-f", argument], capture_output=True, text=True, check=False)
    return found.stdout.split()
