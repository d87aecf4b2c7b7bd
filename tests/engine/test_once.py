"""A training loads its config once, applies each override once and builds its model once."""

import torch
from detectron2.config import instantiate

from d2_regnet.checkpoint.loading import SafeCheckpointer
from d2_regnet.commands.train import main
from d2_regnet.data import before_training
from d2_regnet.data.findings import Finding, Kind
from d2_regnet.engine import load_config
from d2_regnet.model_zoo import loading

CONFIG = """
from detectron2.config import LazyConfig
from d2_regnet.modeling.backbone import regnet

import counted

counted.loads.append(1)
model, dataloader, optimizer, lr_multiplier, train = LazyConfig.load_rel(
    {tiny!r}, ("model", "dataloader", "optimizer", "lr_multiplier", "train")
)
model._target_ = counted.build
dataloader.evaluator = None
"""
COUNTED = """
from detectron2.modeling import GeneralizedRCNN

loads, builds = [], []


def build(**arguments):
    builds.append(1)
    return GeneralizedRCNN(**arguments)
"""


def test_one_load_and_one_build(fixtures, tmp_path, monkeypatch):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "counted.py").write_text(COUNTED)
    (tmp_path / "config.py").write_text(CONFIG.format(tiny=str(fixtures / "tiny_mask_rcnn.py")))
    import counted

    applied = []

    apply = loading.apply
    monkeypatch.setattr(
        loading, "apply", lambda cfg, text: applied.append(text) or apply(cfg, text)
    )
    overrides = [f"train.output_dir={tmp_path / 'out'}", "train.max_iter=1", "train.device=cpu"]
    main(["--config-file", str(tmp_path / "config.py"), *overrides])
    assert (counted.loads, counted.builds) == ([1], [1])
    assert applied == overrides
    assert (tmp_path / "out" / "model_final.pth").is_file()


def test_weights_are_read_once(fixtures, tmp_path, monkeypatch):
    """By the checks, which hand the model on; what it has of them is in the log."""
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    path = str(fixtures / "tiny_mask_rcnn.py")
    state = instantiate(load_config(path).model).state_dict()
    weights = tmp_path / "weights.pth"
    torch.save({"model": {n: t + 1 for n, t in state.items() if "bottom_up" in n}}, weights)
    read, loaded = SafeCheckpointer.load, []
    monkeypatch.setattr(
        SafeCheckpointer, "load", lambda *a, **k: loaded.append(a[1]) or read(*a, **k)
    )
    out = tmp_path / "out"
    own = [f"train.output_dir={out}", "train.max_iter=1", "train.device=cpu", "optimizer.lr=1e-9"]
    main(
        [
            "--config-file",
            path,
            *own,
            "dataloader.evaluator=null",
            *[f"train.init_checkpoint={weights}"],
        ]
    )
    assert loaded == [str(weights)]
    assert f"The model begins with {weights}: a backbone alone" in (out / "log.txt").read_text()
    saved = torch.load(out / "model_final.pth", weights_only=False)["model"]
    name = "backbone.bottom_up.stem.conv.weight"
    torch.testing.assert_close(saved[name], state[name] + 1)


def test_warnings_about_the_data_are_printed_once(fixtures, tmp_path, monkeypatch, caplog):
    """For each of the two data sets."""
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    kind = next(each for each in Kind if each.level == "warning")
    strange = [Finding(kind, "annotations", 0, "a strange annotation")]
    monkeypatch.setattr(before_training, "check_annotations", lambda coco: strange)
    own = [f"train.output_dir={tmp_path / 'out'}", "train.max_iter=1", "train.device=cpu"]
    path = str(fixtures / "tiny_mask_rcnn.py")
    main(["--config-file", path, *own, "dataloader.evaluator=null"])
    assert caplog.text.count("such as a strange annotation") == 2
