"""tools/replay_batch.py on a batch that a training saved."""

import pytest
import torch

from d2_regnet.engine import load_config, train


@pytest.fixture
def saved(data, tmp_path, monkeypatch):
    """The file of the second step, after a first one with far too high a rate."""
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    overrides = [f"train.output_dir={tmp_path / 'out'}", "optimizer.lr=1e30"]
    cfg = load_config(str(data / "tiny_mask_rcnn.py"), overrides)
    cfg.dataloader.evaluator, cfg.train.checkpointer.period = None, 1
    cfg.lr_multiplier.warmup_factor = 1.0
    with pytest.raises(FloatingPointError):
        train(cfg, console=False)
    (file,) = (tmp_path / "out" / "non_finite").iterdir()
    return file


def test_shows_losses_gradients_and_module(tool, saved, data, tmp_path, capsys):
    assert tool.main([str(saved)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Step 1, learning rate 1e+30, float32\nPictures: /")
    assert "Exactly as in training: yes" in out
    assert "First output that is not finite: backbone.bottom_up." in out

    weights = tmp_path / "other.pth"
    state = torch.load(saved, weights_only=False)["model"]
    state = {n: torch.randn_like(w) / 99 if w.is_floating_point() else w for n, w in state.items()}
    torch.save({"model": state}, weights)
    arguments = ["--weights", str(weights), "--config-file", str(data / "tiny_mask_rcnn.py")]
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
