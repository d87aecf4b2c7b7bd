"""d2-regnet replay on a batch that a training saved."""

import pytest
import torch
from detectron2.config import LazyConfig

from d2_regnet.engine import load_config, train


@pytest.fixture
def saved(fixtures, tmp_path, monkeypatch):
    """The file of the second step, after a first one with far too high a rate."""
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    overrides = [f"train.output_dir={tmp_path / 'out'}", "optimizer.lr=1e30"]
    cfg = load_config(str(fixtures / "tiny_mask_rcnn.py"), overrides)
    cfg.dataloader.evaluator, cfg.train.checkpointer.period = None, 1
    cfg.lr_multiplier.warmup_factor = 1.0
    with pytest.raises(FloatingPointError):
        train(cfg, console=False)
    (file,) = (tmp_path / "out" / "non_finite").iterdir()
    return file


def test_shows_losses_gradients_and_module(tool, saved, fixtures, tmp_path, capsys):
    assert tool.main([str(saved)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Step 1, learning rate 1e+30, float32\nImages: /")
    assert "Exactly as in training: yes" in out
    assert "First output that is not finite: backbone.bottom_up." in out

    weights = tmp_path / "other.pth"
    state = torch.load(saved, weights_only=False)["model"]
    state = {n: torch.randn_like(w) / 99 if w.is_floating_point() else w for n, w in state.items()}
    torch.save({"model": state}, weights)
    arguments = ["--weights", str(weights), "--config-file", str(fixtures / "tiny_mask_rcnn.py")]
    assert tool.main([str(saved), *arguments]) == 0
    out = capsys.readouterr().out
    assert "Exactly" not in out and "parameter" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.pth"], "nowhere.pth: no such file"),
        (["{saved}", "--config-file", "mask_rcnn_regnetx_400mf_fpn_3x"], "is not the config of"),
        (["{saved}", "--weights", "nowhere.pth"], "nowhere.pth: no such file"),
    ],
)
def test_bad_input(tool, saved, refused, arguments, message):
    assert message in refused(tool.main, *(each.format(saved=saved) for each in arguments))


def test_dry_run_runs_nothing(tool, saved, capsys):
    assert tool.main([str(saved), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Step 1, learning rate 1e+30, float32\nImages: /")
    assert "Would run it with /" in out and "Exactly" not in out


def test_one_of_several_processes(tool, saved, tmp_path, capsys):
    """What it had heard from the others is used; why SyncBN's statistics are not, is said."""
    content = torch.load(saved, weights_only=False)
    heard = [torch.tensor([128, 128]), torch.tensor(256.0), torch.tensor([16.0, 4.0])]
    torch.save(content | {"rank": 1, "processes": 2, "exchanged": heard}, saved)
    assert tool.main([str(saved)]) == 0
    out = capsys.readouterr().out
    assert "float32, process 1 of 2\n" in out and "Exactly as in training" in out

    cfg = LazyConfig.load(str(saved.parent.parent / "config.yaml"))
    cfg.model.backbone.bottom_up.norm = "SyncBN"
    LazyConfig.save(cfg, str(tmp_path / "shared.yaml"))
    assert tool.main([str(saved), "--config-file", str(tmp_path / "shared.yaml")]) == 0
    out = capsys.readouterr().out
    assert "Exactly" not in out and "layers of SyncBN, such as backbone.bottom_up." in out
