"""Every way in that takes weights refuses a file that would run code, in one line, and runs none.

The paths are Python's own and the commands'; the files are a `.pkl` and a `.pth` whose unpickling
calls `os.system`.
"""

import importlib
import os
import pickle
import shutil

import pytest
import torch

from d2_regnet import model_zoo
from d2_regnet.checkpoint import SafeCheckpointer, catalog, convert, read
from d2_regnet.checkpoint.fitting import load_fitting
from d2_regnet.engine import check_config, evaluate, load_config, train
from d2_regnet.engine.checkpointer import Checkpointer
from d2_regnet.engine.yacs_trainer import YacsTrainer
from d2_regnet.inference import DefaultPredictor, Predictor
from d2_regnet.model_zoo import zoo
from d2_regnet.model_zoo.yacs import to_yacs

ROW = "mask_rcnn_regnetx_400mf_fpn_3x"


class Call:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "it was run"


@pytest.fixture(params=[".pkl", ".pth"])
def evil(request, tmp_path, marker):
    """A checkpoint that would make a file."""
    content = {"model": {"a": Call(f"touch '{marker}'")}, "__author__": "someone"}
    path = tmp_path / f"evil{request.param}"
    if request.param == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    return path


def test_the_file_would_run(evil, marker):
    if evil.suffix == ".pkl":
        pickle.loads(evil.read_bytes())
    else:
        torch.load(evil, weights_only=False)
    assert marker.exists()


@pytest.fixture
def cfg(fixtures, tmp_path, monkeypatch):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    floats = [f"model.backbone.bottom_up.arch.{key}" for key in ("w_a=12.0", "w_m=2.0")]
    cfg = load_config(str(fixtures / "tiny_mask_rcnn.py"), floats)
    cfg.train.output_dir, cfg.train.device = str(tmp_path / "out"), "cpu"
    return cfg


def lazy(cfg, evil):
    cfg.train.init_checkpoint = str(evil)
    return cfg


def yacs(cfg, evil):
    cfg = to_yacs(lazy(cfg, evil))
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = "cpu", cfg.OUTPUT_DIR + "/yacs"
    cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = (), 0
    return cfg


def run_of(cfg, evil):
    """The folder of a run whose newest checkpoint is the file."""
    folder = evil.with_name("run")
    folder.mkdir()
    shutil.copy(evil, folder / f"model_final{evil.suffix}")
    (folder / "last_checkpoint").write_text(f"model_final{evil.suffix}")
    (folder / "config.yaml").write_text(to_yaml(cfg))
    (folder / "metrics.json").write_text('{"iteration": 0, "total_loss": 1.0}\n')
    return folder


def to_yaml(cfg):
    from detectron2.config import LazyConfig

    path = cfg.train.output_dir + ".yaml"
    LazyConfig.save(cfg, path)
    with open(path) as file:
        return file.read()


def zoo_get(cfg, evil, monkeypatch, suffix=""):
    monkeypatch.setattr(zoo, "get_checkpoint_url", lambda name: str(evil))
    model_zoo.get(f"{ROW}{suffix}", trained=True, device="cpu")


def mirrored(name, evil, monkeypatch):
    """The file in the place of a published one, as a mirror's owner might put it there."""
    published = catalog._find(name)
    folder = evil.with_name("mirror")
    folder.mkdir()
    shutil.copy(evil, folder / published.filename)
    monkeypatch.setenv("D2_REGNET_MIRROR", str(folder))
    monkeypatch.setenv("FVCORE_CACHE", str(folder / "cache"))
    catalog.get_local_path(name)


def resumed(cfg, evil):
    cfg.train.output_dir = str(run_of(cfg, evil))
    train(cfg, resume=True)


def yacs_trained(cfg, evil):
    trainer = YacsTrainer(yacs(cfg, evil))
    trainer.resume_or_load(resume=False)
    trainer.train()


PYTHON = {
    "read": lambda cfg, evil, _: read(evil),
    "SafeCheckpointer": lambda cfg, evil, _: SafeCheckpointer(torch.nn.Module()).load(str(evil)),
    "with a query": lambda cfg, evil, _: SafeCheckpointer(torch.nn.Module()).load(
        f"{evil}?matching_heuristics=True"
    ),
    "engine's checkpointer": lambda cfg, evil, _: Checkpointer(torch.nn.Module()).load(str(evil)),
    "convert": lambda cfg, evil, _: convert(evil, evil.with_name("out.pth")),
    "Predictor": lambda cfg, evil, _: Predictor(cfg, str(evil), device="cpu"),
    "Predictor of yacs": lambda cfg, evil, _: Predictor(yacs(cfg, ""), str(evil), device="cpu"),
    "DefaultPredictor": lambda cfg, evil, _: DefaultPredictor(yacs(cfg, evil)),
    "model_zoo.get": zoo_get,
    "model_zoo.get of yaml": lambda cfg, evil, monkeypatch: zoo_get(
        cfg, evil, monkeypatch, ".yaml"
    ),
    "check_config": lambda cfg, evil, _: check_config(lazy(cfg, evil)),
    "check_config of yacs": lambda cfg, evil, _: check_config(yacs(cfg, evil)),
    "train": lambda cfg, evil, _: train(lazy(cfg, evil)),
    "evaluate": lambda cfg, evil, _: evaluate(lazy(cfg, evil)),
    "resume": lambda cfg, evil, _: resumed(cfg, evil),
    "YacsTrainer.evaluate": lambda cfg, evil, _: YacsTrainer.evaluate(yacs(cfg, evil)),
    "YacsTrainer.train": lambda cfg, evil, _: yacs_trained(cfg, evil),
    "load_fitting": lambda cfg, evil, _: load_fitting(torch.nn.Linear(1, 1), str(evil)),
    "mirror, pycls": lambda cfg, evil, monkeypatch: mirrored(
        "regnet://pycls/RegNetX-400MF", evil, monkeypatch
    ),
    "mirror, Detectron2's": lambda cfg, evil, monkeypatch: mirrored(
        "regnet://detectron2/mask_rcnn_regnetx_4.0gf_fpn_lsj_400ep", evil, monkeypatch
    ),
}


@pytest.mark.parametrize("entry", PYTHON)
def test_python_refuses(entry, cfg, evil, marker, monkeypatch):
    with pytest.raises(ValueError) as refusal:
        PYTHON[entry](cfg, evil, monkeypatch)
    assert "\n" not in str(refusal.value)
    # `find_checkpoint` passes over a damaged file, and says so of the last.
    assert "refused: the file asks to run" in str(refusal.value)
    assert not marker.exists()


COMMANDS = {
    "train": "train --config-file {config} train.init_checkpoint={evil}",
    "train --eval-only": "train --config-file {config} --eval-only train.init_checkpoint={evil}",
    "train --eval-only of a run": "train --config-file {run} --eval-only",
    "train --resume": "train --config-file {config} --resume train.output_dir={run}",
    "train of yacs": "train --config-file {yaml} MODEL.WEIGHTS {evil}",
    "train --eval-only of yacs": "train --config-file {yaml} --eval-only MODEL.WEIGHTS {evil}",
    "predict": "predict --model {config} --weights {evil} {image} --output {out}",
    "evaluate": "evaluate --model {config} --weights {evil}",
    "predict of a run": "predict --model {run} {image} --output {out}",
    "export": "export --model {config} --weights {evil} --format onnx --output {out}.onnx",
    "report --samples": "report {run} --output {out} --samples 1",
    "convert": "convert {evil} {out}.pth",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse(command, cfg, evil, marker, tmp_path, fixtures, capsys):
    from PIL import Image

    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    (tmp_path / "tiny.yaml").write_text(yacs(cfg, "").dump())
    cfg.train.init_checkpoint = ""
    values = dict(
        config=tmp_path / "config.py",
        yaml=tmp_path / "tiny.yaml",
        run=run_of(cfg, evil),
        evil=evil,
        image=tmp_path / "image.png",
        out=tmp_path / "new",
    )
    shutil.copy(fixtures / "tiny_mask_rcnn.py", tmp_path / "config.py")
    name, *arguments = COMMANDS[command].format(**values).split()
    module = importlib.import_module(f"d2_regnet.commands.{name}")
    with pytest.raises(SystemExit) as end:
        module.main(arguments)
    error = capsys.readouterr().err
    assert end.value.code in (1, 2) and "refused: the file asks to run" in error
    assert len([line for line in error.splitlines() if line.startswith("error: ")]) == 1
    assert not marker.exists()
