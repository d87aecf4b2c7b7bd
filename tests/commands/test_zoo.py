"""`d2-regnet zoo`: what it lists, prints and saves."""

import json

import pytest
from detectron2.config import LazyConfig
from omegaconf import OmegaConf

from d2_regnet import model_zoo
from d2_regnet.commands.zoo import main

NAME = "mask_rcnn_regnetx_3.2gf_fpn_1x"


def test_it_lists_every_model_with_its_published_ap(capsys):
    assert main([]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[2:]}
    assert [*rows] == model_zoo.list()
    facts = model_zoo.rows()[NAME]
    assert rows[NAME][:2] == [f"{facts['box_ap']:.1f}", f"{facts['mask_ap']:.1f}"]
    assert main(["RetinaNet"]) == 0
    listed = capsys.readouterr().out.splitlines()[2:]
    assert listed and all(line.startswith("retinanet") for line in listed)


def test_json_has_all_that_is_published(capsys):
    assert main(["--json", "retinanet"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {k: v for k, v in model_zoo.rows().items() if k.startswith("retinanet")}


def test_the_whole_config(capsys):
    assert main(["--config", NAME]) == 0
    assert "cfg.model" in capsys.readouterr().out
    assert main(["--config", f"{NAME}.yaml"]) == 0
    assert "META_ARCHITECTURE: GeneralizedRCNN" in capsys.readouterr().out


def test_a_saved_config_is_the_models(tmp_path, capsys, refused):
    file = tmp_path / "my.py"
    assert main(["--config", NAME, "--save", str(file), "--dry-run"]) == 0
    assert not file.exists()
    assert main(["--config", NAME, "--save", str(file)]) == 0
    cfg = LazyConfig.load(str(file))
    assert OmegaConf.to_container(cfg.model) == OmegaConf.to_container(
        model_zoo.get_config(NAME).model
    )
    capsys.readouterr()
    before = file.read_bytes()
    assert "--overwrite" in refused(main, "--config", NAME, "--save", file)
    assert file.read_bytes() == before
    assert main(["--config", NAME, "--save", str(file), "--overwrite"]) == 0


@pytest.mark.parametrize(
    "words, said",
    [
        (["nothing_like_it"], "no model's name contains 'nothing_like_it'"),
        (["--config", "mask_rcnn_regnetx_3.2gf_fpn_9x"], NAME),
        (["--save", "my.py"], "--save needs --config"),
        (["--config", NAME, "--save", "my.yaml"], "my.yaml"),
        (["--config", NAME, "--save", "no/my.py"], "there is no folder no"),
    ],
)
def test_refusals(words, said, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused(main, *words)
    assert not list(tmp_path.iterdir())
