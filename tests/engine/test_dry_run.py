"""What --dry-run says, and that it writes nothing; through the training tools' own parser."""

import pytest

from d2_regnet import model_zoo
from d2_regnet.commands.train import main
from d2_regnet.engine.dry_run import plan
from d2_regnet.engine.launch import argument_parser


@pytest.fixture
def config(fixtures, tmp_path, monkeypatch):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    return str(fixtures / "tiny_mask_rcnn.py")


def test_dry_run_checks_and_prints_and_writes_nothing(config, tmp_path, capsys):
    out = tmp_path / "out"
    options = [f"train.output_dir={out}", "dataloader.train.total_batch_size=4"]
    main(["--config-file", config, "--dry-run", *options])
    text = capsys.readouterr().out
    assert "weights: random" in text and f"output folder: {out}" in text
    assert "images a step: 4" in text and text.endswith("it would: train\n")
    assert not out.exists()
    with pytest.raises(SystemExit) as end:
        main(["--config-file", config, "--dry-run", "train.max_itr=3"])
    assert end.value.code == 2


def test_the_newest_checkpoint_is_named(tiny_run):
    args = argument_parser().parse_args(["--resume", "--config-file", "x"])
    cfg = model_zoo.get_config("mask_rcnn_regnetx_400mf_fpn_3x")
    cfg.train.output_dir = str(tiny_run)
    assert f"weights: {tiny_run / 'model_final.pth'}, and its step" in plan(cfg, args, 1)
    args.resume = False
    text = plan(cfg, args, 4)
    assert "backbone: RegNetX-400MF" in text and "weights: regnet://pycls/RegNetX-400MF" in text
    assert "images a step: 16, 4 in each of 4 processes" in text
    assert "training data: coco_2017_train" in text and "learning rate: 0.02 at most" in text


def test_yacs():
    args = argument_parser().parse_args(["--eval-only"])
    cfg = model_zoo.get_config("mask_rcnn_regnetx_400mf_fpn_3x.yaml")
    text = plan(cfg, args, 1)
    assert "test data: coco_2017_val" in text and "it would: evaluate" in text
    args.eval_only = False
    text = plan(cfg, args, 2)
    assert f"steps: {cfg.SOLVER.MAX_ITER}" in text and "8 in each of 2 processes" in text
