"""The training tool's command line: what it refuses, what it leaves behind, how it goes on."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D2_REGNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("DETECTRON2_DATASETS", "/nowhere/datasets")
        yield


@pytest.fixture(scope="module")
def config(fixtures):
    return str(fixtures / "tiny_mask_rcnn.py")


@pytest.fixture(scope="module")
def trained(tool, config, tmp_path_factory):
    """The output folder of four steps with clipping, checkpoints after the second and the last."""
    out = tmp_path_factory.mktemp("trained")
    tool.main(["--config-file", config, f"train.output_dir={out}", "train.clip_grad.max_norm=1"])
    return out


def metrics(out):
    """All that metrics.json holds, by step; what is said twice of a step is merged."""
    steps = {}
    for line in (out / "metrics.json").read_text().splitlines():
        values = json.loads(line)
        steps.setdefault(values["iteration"], {}).update(values)
    return steps


def process(root, arguments, **options):
    """The tool as its user starts it."""
    command = [sys.executable, str(root / "tools" / "lazyconfig_train_net.py"), *arguments]
    return subprocess.Popen(
        command,
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


REFUSED = {
    "unknown key": (["train.max_itr=3"], ["train.max_itr", "train.max_iter"]),
    "unknown group": (["trian.max_iter=3"], ["trian.max_iter", "train.max_iter"]),
    "unknown top level": (["max_iter=3"], ["max_iter", "train.max_iter"]),
    "unknown parameter": (["optimizer.momentun=0.9"], ["optimizer.momentum"]),
    "unknown backbone option": (["model.backbone.bottom_up.nrom=BN"], ["bottom_up.norm"]),
    "added parameter": (["+optimizer.momentun=0.9"], ["optimizer.momentun", "momentum", "SGD"]),
    "unknown key in a group": (["train.clip_grad.max_nrm=3"], ["train.clip_grad.max_norm"]),
    "unknown key in a dict": (["train.amp={enable:true}"], ["train.amp.enable"]),
    "key below a value": (["train.max_iter.x=3"], ["train.max_iter is a value"]),
    "list index": (
        ["dataloader.train.mapper.augmentations.7.max_size=3"],
        ["augmentations is a list with indices below 2"],
    ),
    "no equals sign": (["SOLVER.BASE_LR"], ["SOLVER.BASE_LR", "key=value"]),
    "yacs override": (["SOLVER.BASE_LR", "0.1"], ["SOLVER.BASE_LR", "key=value"]),
    "empty key": (["=3"], ["=3", "key=value"]),
    "several values": (["train.max_iter=1,2"], ["[1,2]"]),
    "deletion": (["~train.seed"], ["~train.seed", "null"]),
    "option after a key": (["train.max_iter=2", "--resume"], ["--resume", "before"]),
    "word for a number": (["train.max_iter=ten"], ["train.max_iter", "a number", "ten"]),
    "word for a switch": (["train.amp.enabled=on_gpu"], ["train.amp.enabled", "true or false"]),
    "value for a group": (["train.amp=true"], ["train.amp", "enabled"]),
    "no steps": (["train.max_iter=0"], ["train.max_iter", "at least 1"]),
    "no period": (["train.checkpointer.period=0"], ["train.checkpointer.period"]),
    "device": (["train.device=gpu"], ["train.device=gpu", "cpu"]),
    "other device": (["train.device=meta"], ["train.device=meta"]),
    "precision": (["train.amp={enabled:true,precision:int8}"], ["int8", "bfloat16"]),
    "clipping": (["train.clip_grad.max_norm=-1"], ["train.clip_grad", "positive"]),
    "arch": (["model.backbone.bottom_up.arch=RegNetX-401MF"], ["model", "RegNetX-400MF"]),
    "learning rate": (["optimizer.lr=-1"], ["optimizer", "learning rate"]),
    "schedule": (["lr_multiplier=null"], ["lr_multiplier"]),
    "data set": (["dataloader.train.dataset.names=coco_2017_trian"], ["coco_2017_train"]),
    "data set among several": (
        ["dataloader.test.dataset.names=[coco_2017_vla]", "dataloader.evaluator=null"],
        ["dataloader.test.dataset.names", "coco_2017_val"],
    ),
    "data set's files": (
        ["dataloader.train.dataset.names=lvis_v1_train"],
        ["lvis_v1_train", "lvis_v1_train.json", "DETECTRON2_DATASETS"],
    ),
    "checkpoint": (["train.init_checkpoint=none.pth"], ["train.init_checkpoint=none.pth"]),
    "remote checkpoint": (
        ["train.init_checkpoint=regnet://pycls/RegNetX-401MF"],
        ["regnet://pycls/RegNetX-401MF", "RegNetX-400MF", "train.init_checkpoint=''"],
    ),
    "nothing to evaluate": (["--eval-only"], ["--eval-only", "train.init_checkpoint"]),
    "rank": (["--machine-rank", "2"], ["--machine-rank 2"]),
    "machines": (["--num-machines", "2", "--dist-url", "auto"], ["--dist-url"]),
    "share of a batch": (
        ["--num-gpus", "4", "train.device=cpu"],
        ["dataloader.train.total_batch_size=2", "4"],
    ),
}


def refusal(tool, capfd, arguments):
    """The one line with which the tool ends."""
    with pytest.raises(SystemExit) as end:
        tool.main(arguments)
    out, err = capfd.readouterr()
    assert end.value.code == 2
    assert "Traceback" not in out + err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: ")
    return err


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_ends_in_one_line_and_leaves_nothing(tool, config, tmp_path, capfd, case):
    arguments, words = REFUSED[case]
    out = tmp_path / "out"
    line = refusal(tool, capfd, ["--config-file", config, *arguments, f"train.output_dir={out}"])
    for word in words:
        assert word in line
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.device_count() > 7, reason="this machine has eight GPUs")
def test_more_gpus_than_there_are(tool, config, capfd):
    line = refusal(tool, capfd, ["--config-file", config, "--num-gpus", "8"])
    assert "--num-gpus 8" in line and "train.device=cpu" in line


@pytest.mark.parametrize(
    "name, words",
    [
        ("", ["--config-file"]),
        ("nowhere/no.py", ["nowhere/no.py", "does not exist"]),
        ("configs/mask_rcnn_regnetx_400mf_fpn_3.py", ["mask_rcnn_regnetx_400mf_fpn_3x.py"]),
        ("mask_rcnn_regnetx_400mf_fpn_9x", ["mask_rcnn_regnetx_400mf_fpn_3x"]),
    ],
)
def test_no_such_config(tool, root, monkeypatch, capfd, name, words):
    monkeypatch.chdir(root)
    line = refusal(tool, capfd, ["--config-file", name])
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    "text, words",
    [
        ("train = dict()\nmodel = (\n", ["line 2", "never closed"]),
        ("train = dict()\nmodel = undefined\n", ["line 2", "NameError", "undefined"]),
        ("from d2_regnet.archs import get_arch\nget_arch('RegNetX-1MF')\n", ["line 2", "RegNetX"]),
        ("from .base import model\n", ["line 1", "base"]),
        ("train = dict(max_iter=1)\n", ["model"]),
    ],
)
def test_config_with_an_error_names_file_and_line(tool, tmp_path, capfd, text, words):
    path = tmp_path / "broken.py"
    path.write_text(text)
    line = refusal(tool, capfd, ["--config-file", str(path)])
    for word in [*words, *(["broken.py"] if "line 2" in words else [])]:
        assert word in line


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", b"PK\x03\x04 cut off"])
def test_file_that_is_no_checkpoint(tool, config, tmp_path, capfd, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    arguments = ["--config-file", config, "--eval-only", f"train.init_checkpoint={path}"]
    assert str(path) in refusal(tool, capfd, arguments)


def test_last_checkpoint_that_is_gone(tool, config, tmp_path, capfd):
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    arguments = ["--config-file", config, "--resume", f"train.output_dir={tmp_path}"]
    assert "model_0000009.pth" in refusal(tool, capfd, arguments)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint"]


def test_another_training_is_not_resumed(tool, config, trained, capfd):
    before = {path: path.stat().st_mtime_ns for path in trained.iterdir()}
    arguments = ["--config-file", config, "--resume", f"train.output_dir={trained}"]
    for override, difference in {
        "model.roi_heads.num_classes=7": "model.roi_heads.num_classes was 6 and is 7",
        "dataloader.train.total_batch_size=4": "total_batch_size was 2 and is 4",
        "dataloader.train.dataset.names=shapes_train": "dataset.names was shapes_seed5",
        "model.roi_heads.box_head.fc_dims=[8]": "box_head.fc1.weight was of shape (16, 784)",
    }.items():
        assert difference in refusal(tool, capfd, [*arguments, override])
    assert before == {path: path.stat().st_mtime_ns for path in trained.iterdir()}


def test_a_damaged_checkpoint_is_passed_over(tool, config, trained, tmp_path, capsys):
    for name in ("model_0000001.pth", "model_0000003.pth"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    with open(tmp_path / "model_0000003.pth", "r+b") as file:
        file.truncate(5000)
    arguments = ["--config-file", config, "--resume", f"train.output_dir={tmp_path}"]
    tool.main([*arguments, "dataloader.evaluator=null"])
    log = (tmp_path / "log.txt").read_text()
    assert "Passed over: " in log and "model_0000003.pth: is truncated" in log
    assert "Starting training from iteration 2" in log
    weights = [torch.load(out / "model_final.pth")["model"] for out in (tmp_path, trained)]
    assert all(torch.isfinite(w).all() for w in weights[0].values())


def test_an_error_of_the_training_ends_in_one_line(tool, config, tmp_path, capfd):
    """The log has the traceback."""
    arguments = ["--config-file", config, f"train.output_dir={tmp_path}", "optimizer.lr=1e30"]
    with pytest.raises(SystemExit) as end:
        tool.main([*arguments, "dataloader.evaluator=null", "train.max_iter=9"])
    assert end.value.code == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: step ") and "learning rate" in line and "finite" in line
    assert "Traceback" in (tmp_path / "log.txt").read_text()


def test_data_set_without_pictures(tool, config, tmp_path, capfd):
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps(dict(images=[], annotations=[], categories=[])))
    pictures = tmp_path / "images"
    pictures.mkdir()
    DatasetCatalog.register("no_pictures", list)
    MetadataCatalog.get("no_pictures").set(json_file=str(annotations), image_root=str(pictures))
    arguments = ["--config-file", config, "dataloader.train.dataset.names=no_pictures"]
    try:
        line = refusal(tool, capfd, arguments)
    finally:
        DatasetCatalog.remove("no_pictures")
        MetadataCatalog.remove("no_pictures")
    assert f"{pictures} is empty" in line


def test_verbose_shows_where(tool, capfd):
    with pytest.raises(SystemExit):
        tool.main(["--config-file", "nowhere.py", "--verbose"])
    err = capfd.readouterr().err
    assert "Traceback" in err and err.splitlines()[-1].startswith("error: ")


def test_what_a_run_leaves(trained):
    files = {path.name for path in trained.iterdir()}
    checkpoints = {"model_0000001.pth", "model_0000003.pth", "model_final.pth"}
    assert checkpoints | {"last_checkpoint", "config.yaml", "log.txt", "metrics.json"} <= files
    assert any(name.startswith("events.out.tfevents") for name in files)
    assert not any(name.endswith(".partial") for name in files)
    assert (trained / "last_checkpoint").read_text() == "model_final.pth"
    steps = metrics(trained)
    assert set(steps) == {0, 1, 2, 3, 4}  # the evaluation counts as after the last
    losses = {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
    assert losses | {"total_loss", "lr", "grad_norm"} <= steps[3].keys()
    assert {"bbox/AP", "segm/AP"} <= steps[4].keys()
    log = (trained / "log.txt").read_text()
    assert "tiny_mask_rcnn.py" in log and "Starting training from iteration 0" in log


def test_resume_goes_on_with_step_and_schedule(tool, config, trained, tmp_path):
    for name in ("model_0000001.pth", "config.yaml"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    tool.main(["--config-file", config, "--resume", f"train.output_dir={tmp_path}"])
    assert "Starting training from iteration 2" in (tmp_path / "log.txt").read_text()
    resumed, whole = metrics(tmp_path), metrics(trained)
    assert set(resumed) == {2, 3, 4}
    assert [resumed[i]["lr"] for i in (2, 3)] == [whole[i]["lr"] for i in (2, 3)]
    state = torch.load(tmp_path / "model_final.pth")
    assert state["iteration"] == 3
    momentum = state["trainer"]["optimizer"]["state"]
    assert momentum and all(torch.isfinite(s["momentum_buffer"]).all() for s in momentum.values())


def test_resume_of_a_finished_run_only_evaluates(tool, config, trained, tmp_path):
    for name in ("model_final.pth", "last_checkpoint"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    tool.main(["--config-file", config, "--resume", f"train.output_dir={tmp_path}"])
    assert "already reached step 4" in (tmp_path / "log.txt").read_text()
    (last,) = metrics(tmp_path).values()
    assert last["bbox/AP"] == metrics(trained)[4]["bbox/AP"]
    assert torch.load(tmp_path / "model_final.pth")["iteration"] == 3


def test_resume_with_nothing_there_starts_anew(tool, config, tmp_path):
    arguments = ["--config-file", config, "--resume", f"train.output_dir={tmp_path}"]
    tool.main([*arguments, "train.max_iter=1", "dataloader.evaluator=null"])
    log = (tmp_path / "log.txt").read_text()
    assert f"No checkpoint to resume in {tmp_path}: starting anew" in log
    assert "Starting training from iteration 0" in log


@pytest.mark.parametrize("saved", [False, True], ids=["config", "config.yaml of the run"])
def test_eval_only_equals_the_final_evaluation(tool, config, trained, tmp_path, capsys, saved):
    path = str(trained / "config.yaml") if saved else config
    weights = f"train.init_checkpoint={trained / 'model_final.pth'}"
    tool.main(["--config-file", path, "--eval-only", weights, f"train.output_dir={tmp_path}"])
    assert "copypaste: Task: segm" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.pth"))
    # metrics.json is of training; the same numbers are printed by both
    table = [
        [line.partition("copypaste: ")[2] for line in (out / "log.txt").read_text().splitlines()]
        for out in (trained, tmp_path)
    ]
    numbers = [[row for row in rows if row.count(",") == 5 and "AP" not in row] for rows in table]
    assert len(numbers[0]) == 2 and numbers[0] == numbers[1]


def test_device_falls_back_to_the_cpu(tool, config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    arguments = ["--config-file", config, f"train.output_dir={tmp_path}", "train.device=cuda"]
    tool.main([*arguments, "train.max_iter=1", "dataloader.evaluator=null"])
    assert "there is no GPU: using the CPU" in capsys.readouterr().out


def test_amp_on_the_cpu_trains_in_bfloat16(tool, config, tmp_path):
    arguments = ["--config-file", config, f"train.output_dir={tmp_path}", "train.device=cpu"]
    tool.main([*arguments, "train.amp.enabled=true", "train.max_iter=2"])
    steps = metrics(tmp_path)
    assert all(0 < steps[i]["total_loss"] < 100 for i in (0, 1))
    assert "bbox/AP" in steps[2]
    weights = torch.load(tmp_path / "model_final.pth")["model"]
    parameters = [weight for weight in weights.values() if weight.is_floating_point()]
    assert all(w.dtype == torch.float32 and torch.isfinite(w).all() for w in parameters)


def test_detectron2s_own_lazyconfig_runs_unchanged(tool, config, trained, tmp_path):
    # `trained` has registered the images
    names = [n for n in DatasetCatalog.list() if n.startswith("shapes_seed5")]
    by_split = {split: next(n for n in names if split in n) for split in ("train", "val")}
    overrides = f"""
        train.output_dir={tmp_path} train.init_checkpoint='' train.max_iter=1
        dataloader.train.dataset.names={by_split["train"]}
        dataloader.test.dataset.names={by_split["val"]}
        dataloader.train.mapper.augmentations.0.short_edge_length=[64]
        dataloader.test.mapper.augmentations.0.short_edge_length=64
        dataloader.train.mapper.instance_mask_format=bitmask
        dataloader.train.total_batch_size=1 dataloader.train.num_workers=0
        dataloader.test.num_workers=0 model.roi_heads.num_classes=6
        model.roi_heads.box_predictor.test_score_thresh=0.5
    """
    name = "COCO-InstanceSegmentation/mask_rcnn_regnetx_4gf_dds_fpn_1x.py"
    tool.main(["--config-file", name, *overrides.split()])
    steps = metrics(tmp_path)
    assert 0 < steps[0]["total_loss"] < 100 and "bbox/AP" in steps[1]


def test_ctrl_c_ends_the_run_with_a_checkpoint(root, config, tmp_path):
    arguments = ["--config-file", config, f"train.output_dir={tmp_path}", "train.device=cpu"]
    run = process(root, [*arguments, "train.max_iter=100000", "dataloader.train.num_workers=1"])
    try:
        while not (tmp_path / "metrics.json").exists() or not metrics(tmp_path):
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == 130, output
    assert "Traceback" not in output
    name = (tmp_path / "last_checkpoint").read_text()
    state = torch.load(tmp_path / name)
    assert name == f"model_{state['iteration']:07d}.pth"


@pytest.mark.slow
@pytest.mark.parametrize("by", ["--num-gpus", "torchrun"])
def test_two_processes_share_the_work(root, config, tmp_path, by):
    arguments = ["--config-file", config, f"train.output_dir={tmp_path}", "train.device=cpu"]
    arguments += ["train.max_iter=2"]
    if by == "torchrun":
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node=2", str(root / "tools" / "lazyconfig_train_net.py")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        run = subprocess.run(
            [*command, *arguments], cwd=root, env=environment, capture_output=True, text=True
        )
        output = run.stdout + run.stderr
    else:
        arguments = ["--num-gpus", "2", "--dist-url", "auto", *arguments]
        run = process(root, arguments)
        output, _ = run.communicate()
    assert run.returncode == 0, output
    assert "World size: 2" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "log.txt.rank1").exists()
    steps = metrics(tmp_path)
    assert set(steps) == {0, 1, 2} and "bbox/AP" in steps[2]
    weights = torch.load(tmp_path / "model_final.pth")["model"]
    assert not any(name.startswith("module.") for name in weights)


def documented(root):
    """The commands of docs/results/short_runs.md that train."""
    blocks = re.findall(
        r"```sh\n(.*?)```", (root / "docs/results/short_runs.md").read_text(), re.DOTALL
    )
    (block,) = [block for block in blocks if "train.max_iter=20" in block]
    return [
        shlex.split(line)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("d2-regnet train")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", ["mask_rcnn_regnetx_400mf_fpn_3x", "retinanet_regnetx_800mf_fpn_1x"]
)
def test_real_pictures_as_documented(root, shared, tmp_path, monkeypatch, row):
    (command,) = [words for words in documented(root) if row in words]
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared / "data"))
    before = {path: path.stat().st_mtime_ns for path in (shared / "data").rglob("*")}
    run = process(root, [*command[2:], f"train.output_dir={tmp_path}"])
    output, _ = run.communicate()
    assert run.returncode == 0, output
    steps = metrics(tmp_path)
    assert set(steps) == {4, 9, 14, 19, 20}
    assert all(0 < steps[i]["total_loss"] < 10 for i in (4, 9, 14, 19))
    assert all(steps[i]["grad_norm"] > 0 for i in (4, 9, 14, 19))  # both rows clip
    assert all(0 <= steps[20][key] <= 100 for key in ("bbox/AP", "bbox/AP50"))
    assert ("segm/AP" in steps[20]) == row.startswith("mask")
    assert {path: path.stat().st_mtime_ns for path in (shared / "data").rglob("*")} == before
