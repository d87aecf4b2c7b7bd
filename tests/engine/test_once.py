"""A training loads its config once, applies each override once and builds its model once."""

from d2_regnet.commands.train import main
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
