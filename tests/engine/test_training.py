"""What train() gives and leaves, and that it goes on."""

import json

import pytest
from detectron2.engine import HookBase

from d2_regnet.engine import Interrupted, evaluate, load_config, train


@pytest.fixture
def cfg(fixtures, tmp_path, monkeypatch):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    cfg = load_config(str(fixtures / "tiny_mask_rcnn.py"), [f"train.output_dir={tmp_path / 'out'}"])
    cfg.train.max_iter = 3
    return cfg


class Stop(HookBase):
    """Interrupts the training, as a signal does."""

    def after_step(self):
        if self.trainer.iter == 1:
            raise Interrupted(2)


def test_train_returns_the_last_evaluation(cfg, tmp_path, capsys):
    seen = []

    class Note(HookBase):
        def after_step(self):
            seen.append(self.trainer.iter)
            self.trainer.storage.put_scalar("noted", 5.0)

    results = train(cfg, hooks=[Note()], console=False)
    assert seen == [0, 1, 2]
    assert {"AP", "AP50", "AP-circle"} <= results["bbox"].keys()
    out = tmp_path / "out"
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert [line["noted"] for line in lines if "noted" in line] == [5.0, 5.0, 5.0]
    assert lines[-1]["bbox/AP"] == results["bbox"]["AP"]

    # The console was quiet although the log is complete.
    assert "Starting training" in (out / "log.txt").read_text()
    assert "Starting training" not in capsys.readouterr().out

    cfg.train.init_checkpoint = str(out / "model_final.pth")
    cfg.train.output_dir = str(tmp_path / "again")
    again = evaluate(cfg)
    assert json.dumps(again) == json.dumps(results)
    assert "model" not in cfg.optimizer.params  # the config stays what it was


def test_interrupted_training_is_resumed(cfg, tmp_path):
    cfg.dataloader.evaluator = None
    cfg.train.checkpointer.period = 1
    with pytest.raises(Interrupted):
        train(cfg, hooks=[Stop()], console=False)
    assert train(cfg, resume=True, console=False) == {}
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "Starting training from iteration 2" in log
    assert "no dataloader.evaluator" in log
    assert (tmp_path / "out" / "model_final.pth").exists()


def test_nothing_is_written_where_the_config_is_refused(cfg, tmp_path):
    cfg.dataloader.train.dataset.names = "nowhere"
    with pytest.raises(ValueError, match="'nowhere' is not registered"):
        train(cfg)
    assert not (tmp_path / "out").exists()
