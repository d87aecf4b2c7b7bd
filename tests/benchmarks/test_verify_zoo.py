"""Published weights evaluated and set beside the published AP, from made-up weights in a mirror."""

import json
import pickle
from collections.abc import Callable

import pytest
from detectron2.config import instantiate

from benchmarks import verify_zoo
from d2_regnet import model_zoo

NAME = "mask_rcnn_regnetx_4.0gf_fpn_lsj_100ep"


@pytest.fixture
def tool(tmp_path, monkeypatch) -> Callable:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verify_zoo, "FACTS", tmp_path / "verified.json")
    return lambda *words: verify_zoo.main(["--output", str(tmp_path / "verified"), *words])


@pytest.fixture
def refused(tool, capsys) -> Callable:
    """`refused(*words)`: the one line of an error of exit code 2."""

    def line(*words: str) -> str:
        with pytest.raises(SystemExit) as end:
            tool(*words)
        assert end.value.code == 2
        (error,) = capsys.readouterr().err.splitlines()
        return error

    return line


def result(folder, **facts):
    (folder / "verified").mkdir(exist_ok=True)
    facts = {"box_ap": 41.04, "mask_ap": 36.66, "images": 5000, "overrides": []} | facts
    (folder / "verified" / f"{NAME}.json").write_text(json.dumps(facts))


def test_an_unknown_model_and_one_without_weights_are_refused(refused):
    assert "unknown" in refused("--models", "mask_rcnn_x")
    without = next(name for name, facts in model_zoo.rows().items() if not facts["url"])
    assert "no weights" in refused("--models", without)


def test_all_published_models_are_listed_but_those_that_are_done(tool, tmp_path, capsys):
    result(tmp_path)
    assert tool("--dry-run") == 0
    _, *names = capsys.readouterr().out.splitlines()
    every = {name for name, facts in model_zoo.rows().items() if facts["url"]}
    assert set(names) == every - {NAME}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"images": 80}, "80 images"),
        (
            {"overrides": ["dataloader.test.mapper.augmentations.0.short_edge_length=64"]},
            "edge_len",
        ),
    ],
)
def test_only_whole_evaluations_reach_the_tables(tmp_path, refused, facts, message):
    result(tmp_path, **facts)
    assert message in refused("--write")
    assert not (tmp_path / "verified.json").exists()


def test_results_reach_the_tables(tool, tmp_path, root, load_file, monkeypatch):
    generator = load_file(root / "docs" / "generate_model_zoo.py")
    before = generator.table([NAME])
    result(tmp_path, overrides=["train.device=cpu"])
    assert tool("--write") == 0
    monkeypatch.setattr(generator, "VERIFIED", tmp_path / "verified.json")
    head, _, line = generator.table([NAME]).splitlines()
    cells = dict(zip(head.split(" | "), line.split(" | ")))
    assert (cells["Box AP, measured"], cells["Mask AP, measured"]) == ("41.0", "36.7")
    assert "measured" not in before
    assert cells["Box AP, published"] == f"{model_zoo.rows()[NAME]['box_ap']:.1f}"


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_made_up_weights_on_real_images(tool, shared, tmp_path, monkeypatch, capfd, processes):
    (tmp_path / "mirror").mkdir()
    model = instantiate(model_zoo.get_config(NAME).model).state_dict()
    state = {name: tensor.numpy() for name, tensor in model.items()}
    file = tmp_path / "mirror" / model_zoo.rows()[NAME]["url"].rpartition("/")[2]
    file.write_bytes(pickle.dumps({"model": state, "__author__": "test"}))
    monkeypatch.setenv("D2_REGNET_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared / "data"))
    small = ["train.device=cpu", "dataloader.test.num_workers=0"]
    small += ["dataloader.test.mapper.augmentations.0.short_edge_length=64"]
    arguments = ["--models", NAME, "--num-gpus", processes]
    assert tool(*arguments, *small) == 0
    facts = json.loads((tmp_path / "verified" / f"{NAME}.json").read_text())
    assert facts["overrides"] == small
    assert 0 <= facts["box_ap"] < 5 and 0 <= facts["mask_ap"] < 5
    out = capfd.readouterr().out
    assert f"| {NAME} |" in out
    monkeypatch.setattr(verify_zoo, "evaluated", None)  # a second run evaluates nothing
    assert tool(*arguments, *small) == 0
