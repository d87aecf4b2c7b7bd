"""Every sub-command on small input: the table, the JSON, the image, and what is refused."""

import json
import re
import shlex

import pytest
from PIL import Image

from benchmarks import machine
from benchmarks.__main__ import argument_parser, main

MODEL = "retinanet_regnetx_200mf_fpn_1x"
COMMANDS = ["backbone", "detector", "layers", "train", "memory", "data", "evaluate"]


@pytest.fixture
def tool(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "_SIDE", {"cpu": 64})
    monkeypatch.setattr(machine, "_FEATURES", {"cpu": (1, 16, 16, 16)})
    monkeypatch.setattr(machine, "_COPIED", 2**16)
    return lambda *arguments: main([str(each) for each in arguments])


def report(path, command):
    content = json.loads(path.read_text())
    assert list(content) == ["command", "arguments", "machine", "counted", "skipped", "results"]
    assert content["command"] == command
    assert {"processor", "cores", "threads", "torch", "peak", "bandwidth"} <= set(
        content["machine"]
    )
    return content["results"]


def test_backbone(tool, tmp_path, capsys):
    archs = ("--archs", "RegNetX-200MF", "efficientnet_b0@96", "--size", 64, 64)
    peers = (
        "--peers",
        "ours",
        "detectron2",
        "torchvision",
        "timm",
        "--dtypes",
        "float32",
        "bfloat16",
    )
    assert tool("backbone", *archs, *peers, "--json", "a.json", "--plot", "a.png") == 0
    printed = capsys.readouterr().out
    assert "left out: torchvision has no RegNetX-200MF" in printed
    results = report(tmp_path / "a.json", "backbone")
    assert [(each["arch"], each["peer"]) for each in results] == [
        *(("RegNetX-200MF", peer) for peer in ("ours", "ours bfloat16", "detectron2", "timm")),
        ("efficientnet_b0", "torchvision"),
    ]
    for each in results:
        assert each["seconds"] > 0 and each["spread"] >= 0 and each["share_of_peak"] > 0
        assert each["images_per_second"] == pytest.approx(1 / each["seconds"])
        rate = each["gflops"] * each["images_per_second"]
        assert each["gflops_per_second"] == pytest.approx(rate)
    ours, low, theirs, timm, _ = results
    assert theirs["ratio"] == 1
    assert ours["ratio"] == pytest.approx(ours["seconds"] / theirs["seconds"])
    assert (ours["size"], results[-1]["size"]) == ("64x64", "96x96")
    assert max(ours["difference"], theirs["difference"], timm["difference"]) < 1e-4
    assert 1e-4 < low["difference"] < 0.3
    with Image.open(tmp_path / "a.png") as image:
        assert len(image.convert("L").getcolors(256)) > 10


def test_backbone_in_training(tool, tmp_path):
    peers = ("--peers", "ours", "unfused", "checkpointed", "detectron2")
    options = ("--archs", "RegNetX-200MF", "--size", 64, 96, "--train", "--json", "a.json")
    assert tool("backbone", *peers, *options) == 0
    ours, unfused, checkpointed, theirs = report(tmp_path / "a.json", "backbone")
    assert ours["saved_bytes"] < 0.7 * unfused["saved_bytes"]
    assert checkpointed["saved_bytes"] < ours["saved_bytes"]
    assert all(each["difference"] < 1e-4 for each in (ours, unfused, checkpointed, theirs))


def test_detector(tool, tmp_path):
    assert tool("detector", "--models", MODEL, "--size", 96, 128, "--json", "a.json") == 0
    ours, theirs = report(tmp_path / "a.json", "detector")
    assert (ours["model"], ours["peer"], theirs["peer"]) == (MODEL, "ours", "detectron2")
    assert ours["difference"] < 1e-4 and ours["same"] > 0.95
    assert ours["gflops"] == theirs["gflops"] == theirs["gflops_done"] > 1
    # RetinaNet's towers are of 3x3 convolutions with 256 channels, which Winograd computes with
    # some 0.3 of the multiply-adds.
    assert 0.3 < ours["gflops_done"] / ours["gflops"] < 0.5
    rate = ours["gflops_done"] * ours["images_per_second"]
    assert ours["gflops_per_second"] == pytest.approx(rate)


def test_layers(tool, tmp_path):
    options = ("--models", MODEL, "--size", 128, 128, "--layers", 2)
    options += ("--dtypes", "bfloat16", "float32")
    assert tool("layers", *options, "--json", "a.json") == 0
    results = report(tmp_path / "a.json", "layers")
    assert [each["peer"] for each in results] == ["ours bfloat16", "ours"] * 2
    low, full = results[:2]
    # FPN's output p3, and the two towers of four convolutions on it.
    assert (full["layer"], full["on"], full["times"]) == ("3x3, 256 to 256", "1x256x16x16", 9)
    assert full["gflops"] == low["gflops_done"] == pytest.approx(16 * 16 * 256 * 256 * 9 / 1e9)
    assert full["gflops_done"] < 0.4 * full["gflops"]  # Winograd's
    assert full["moved"] == 2 * low["moved"] == 4 * (2 * 256 * 16 * 16 + 256 * 256 * 9)
    machine = json.loads((tmp_path / "a.json").read_text())["machine"]
    least = full["gflops_done"] / machine["peak"]["float32"]
    assert full["seconds_of_operations"] == pytest.approx(least)
    least = full["moved"] / machine["bandwidth"] / 1e9
    assert full["seconds_of_bytes"] == pytest.approx(least)
    assert results[2]["share"] < full["share"] < 1


def test_train(tool, tmp_path):
    options = ("--models", MODEL, "--size", 64, 96, "--batch", 1, "--json", "a.json")
    assert tool("train", "--peers", "ours", "unfused", "detectron2", *options) == 0
    results = report(tmp_path / "a.json", "train")
    assert [each["peer"] for each in results] == ["ours", "unfused", "detectron2"]
    assert all(each["difference"] < 1e-3 for each in results)


def test_memory(tool, tmp_path, capsys):
    name = "retinanet_regnetx_800mf_fpn_1x"
    options = ("--models", name, "--size", 64, 96, "--json", "a.json")
    assert tool("memory", "--peers", "ours", "unfused", *options) == 0
    ours, unfused = report(tmp_path / "a.json", "memory")
    assert ours["published"] == 2.5 and 0 < ours["bytes"] < unfused["bytes"]
    assert ours["ratio"] < 1 and "published, GB" in capsys.readouterr().out


def test_data(tool, tmp_path, shared):
    folder = shared / "data" / "coco"
    where = ("--annotations", folder / "annotations" / "instances_val2017.json")
    where += ("--images", folder / "val2017", "--count", 3)
    assert tool("data", "--models", MODEL, *where, "--json", "a.json") == 0
    results = report(tmp_path / "a.json", "data")
    assert [(each["part"], each["peer"]) for each in results] == [
        *(("train", "ours"), ("train", "detectron2"), ("test", "ours"), ("test", "detectron2"))
    ]
    assert all(each["difference"] <= 2 and each["differing"] < 0.05 for each in results)


def test_evaluate(tool, tmp_path):
    assert tool("evaluate", "--count", 30, "--json", "a.json") == 0
    ours, theirs = report(tmp_path / "a.json", "evaluate")
    assert ours["difference"] < 1e-6 and theirs["difference"] == 0
    assert 5 < ours["box_ap"] < 95 and 5 < ours["mask_ap"] < 95


@pytest.mark.parametrize("command", COMMANDS)
def test_dry_run_runs_nothing(tool, tmp_path, capsys, command, shared):
    folder = shared / "data" / "coco"
    where = ["--annotations", folder / "annotations" / "instances_val2017.json"]
    where += ["--images", folder / "val2017"]
    options = where if command == "data" else []
    assert tool(command, "--dry-run", "--json", "a.json", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(line.startswith(f"{command}: ") for line in lines)
    assert len(lines) == (39 if command == "memory" else 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["backbone", "--archs", "RegNetX-401MF"], "RegNetX-400MF"),
        (["backbone", "--archs", "efficientnet_b9"], "unknown EfficientNet"),
        (["backbone", "--rounds", "4"], "--rounds must be at least 5, not 4"),
        (["backbone", "--discard", "0"], "--discard must be at least 1"),
        (["backbone", "--size", "32", "64"], "--size must be at least 64 64"),
        (["backbone", "--dtypes", "float16"], "CPUs have bfloat16"),
        (["backbone", "--train", "--compile"], "which are for inference"),
        (["backbone", "--peers", "keras"], "invalid choice: 'keras'"),
        (["backbone", "--json", "nowhere/a.json"], "there is no folder nowhere"),
        (["detector", "--models", "mask_rcnn_regnetx_9gf_fpn_1x"], "unknown model"),
        (["detector", "--amp"], "--amp is for --device cuda"),
        (["detector", "--cuda-graphs"], "--cuda-graphs is for --device cuda"),
        (["train", "--device", "tpu"], "--device is cpu or cuda"),
        (["memory", "--batch", "0"], "--batch must be at least 1"),
        (["data", "--annotations", "nowhere.json"], "nowhere.json does not exist"),
        (["data", "--dataset", "coco_2017_vla"], "unknown data set"),
        (["evaluate", "--count", "0"], "--count must be at least 1"),
        ([], "COMMAND"),
    ],
)
def test_bad_input(tool, tmp_path, capsys, arguments, said):
    with pytest.raises(SystemExit) as stop:
        tool(*arguments)
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    assert not list(tmp_path.iterdir())


def test_a_library_that_is_not_there(tool, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        tool("backbone", "--peers", "timm")
    assert stop.value.code == 2
    assert "timm is not installed: pip install timm" in capsys.readouterr().err


@pytest.mark.parametrize("command", [*COMMANDS, "scaling", "neighbours"])
def test_every_command_has_examples_that_parse(capsys, command):
    parser = argument_parser()
    with pytest.raises(SystemExit):
        parser.parse_args([command, "--help"])
    text = capsys.readouterr().out
    examples = re.findall(r"^    \$ (.+)", text, re.M)
    assert examples
    for line in examples:
        arguments = shlex.split(line.removeprefix("python -m benchmarks "))
        assert arguments[0] == command
        assert parser.parse_args(arguments).command == command
    assert ("share above 100 %" in text) == (command in ("backbone", "detector", "layers"))
