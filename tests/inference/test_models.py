"""What names a model: a name of the zoo, a config of either kind, a run."""

import json
import shutil

import pytest
from detectron2.config import CfgNode
from omegaconf import DictConfig

from d2_regnet import model_zoo
from d2_regnet.engine import load_config
from d2_regnet.inference.models import dataset_metadata, find_model
from d2_regnet.model_zoo.yacs import to_yaml

MODEL = "mask_rcnn_regnetx_400mf_fpn_3x"


@pytest.mark.parametrize("model", [MODEL, f"{MODEL}.yaml", "file", "yaml file"])
def test_a_model_comes_with_its_weights(model):
    files = {
        "file": model_zoo.get_config_file(MODEL),
        "yaml file": model_zoo.get_config_file(f"{MODEL}.yaml"),
    }
    cfg, weights = find_model(files.get(model, model))
    assert weights == f"regnet://mmdet/{MODEL}"
    assert isinstance(cfg, CfgNode if "yaml" in model else DictConfig)
    metadata = dataset_metadata(cfg, 80)
    assert metadata.thing_classes[0] == "person"
    assert metadata.thing_dataset_id_to_contiguous_id[90] == 79
    assert len(metadata.thing_colors) == 80


def test_a_run_comes_with_its_newest_checkpoint(tiny_run):
    for model in (tiny_run, tiny_run / "config.yaml"):
        cfg, weights = find_model(str(model))
        assert weights == str(tiny_run / "model_final.pth")
        assert dataset_metadata(cfg, 6).thing_classes[0] == "circle"


def test_a_run_that_has_kept_its_best_comes_with_it(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    shutil.copy(run / "model_final.pth", run / "model_best.pth")
    assert find_model(str(run))[1] == str(run / "model_best.pth")
    (run / "last_checkpoint").unlink()  # killed before its first checkpoint
    assert find_model(str(run / "config.yaml"))[1] == str(run / "model_best.pth")


def test_given_weights_win(tiny_run):
    weights = str(tiny_run / "model_final.pth")
    assert find_model(MODEL, weights)[1] == weights
    assert find_model(MODEL, "regnet://pycls/x")[1] == "regnet://pycls/x"


def test_a_yacs_config_names_its_weights(tiny_run, tmp_path):
    cfg = load_config(str(tiny_run / "config.yaml"))
    cfg.train.init_checkpoint = str(tiny_run / "model_final.pth")
    cfg.model.backbone.bottom_up.arch.update(w_a=12.0, w_m=2.0)  # yacs tells them from integers
    (tmp_path / "mine.yaml").write_text(to_yaml(cfg))
    found, weights = find_model(str(tmp_path / "mine.yaml"))
    assert isinstance(found, CfgNode) and weights == cfg.train.init_checkpoint
    assert dataset_metadata(found, 6).thing_classes[5] == "cross"


def test_classes_without_names():
    cfg = model_zoo.get_config(MODEL)
    metadata = dataset_metadata(cfg, 2)
    assert metadata.thing_classes == ["class 1", "class 2"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1}
    cfg.dataloader.test.dataset.names = ["registered_nowhere"]
    assert dataset_metadata(cfg, 1).thing_classes == ["class 1"]


@pytest.mark.parametrize(
    ("model", "weights", "error", "said"),
    [
        ("mask_rcnn_regnetx_400mf_fpn_9x", None, ValueError, "nearest"),
        ("retinanet_regnety_400mf_fpn_1x", None, ValueError, "no weights"),
        ("nowhere.py", None, FileNotFoundError, "nowhere.py"),
        (MODEL, "nowhere.pth", FileNotFoundError, "nowhere.pth"),
        ("{empty}", None, FileNotFoundError, "no config.yaml"),
        ("{tiny}", None, ValueError, "--weights"),
    ],
)
def test_what_is_no_model(model, weights, error, said, tmp_path, fixtures):
    model = model.format(empty=tmp_path, tiny=fixtures / "tiny_mask_rcnn.py")
    with pytest.raises(error, match=said):
        find_model(model, weights)


def test_names_and_ids_of_the_data_set_that_a_config_describes(tmp_path, fixtures):
    """Before anybody has loaded it; without `categories` in the config they are the file's."""
    categories = [{"id": 46 - i, "name": f"kind {46 - i}"} for i in range(6)]
    content = {"images": [{"id": 1, "file_name": "a.png", "width": 9, "height": 9}]}
    content |= {"categories": categories, "annotations": []}
    (tmp_path / "val.json").write_text(json.dumps(content))
    described = f"{{json_file: {tmp_path / 'val.json'}, image_root: {tmp_path}}}"
    cfg = load_config(
        str(fixtures / "tiny_mask_rcnn.py"),
        [f"+datasets={{mine_val: {described}}}", "dataloader.test.dataset.names=mine_val"],
    )
    metadata = dataset_metadata(cfg, 6)
    assert metadata.thing_classes == [f"kind {i}" for i in range(41, 47)]
    assert metadata.thing_dataset_id_to_contiguous_id == {41 + i: i for i in range(6)}
