"""A whole fine-tuning of the tiny detector, from data to report, and again from its config."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from d2_regnet.archs import get_arch
from d2_regnet.checkpoint.catalog import address
from d2_regnet.data.shapes import CLASSES, build_shapes
from d2_regnet.engine import check_config, load_config
from d2_regnet.finetune import prepare, resumed, run
from d2_regnet.inference import Predictor, find_model
from d2_regnet.modeling.backbone.regnet import build_regnet

SMALL = ["train.max_iter=3", "dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Two of the six classes, in a COCO file: (images, annotations)."""
    folder = tmp_path_factory.mktemp("shapes") / "train"
    build_shapes(folder, 8, "train", 10)
    coco = json.loads((folder / "annotations.json").read_text())
    coco["categories"] = [each for each in coco["categories"] if each["name"] in ("star", "ring")]
    ids = {each["id"] for each in coco["categories"]}
    coco["annotations"] = [a for a in coco["annotations"] if a["category_id"] in ids]
    file = folder.parent / "two.json"
    file.write_text(json.dumps(coco))
    return str(folder), str(file)


def planned(shapes, tiny_run, output, **options):
    options = {"overrides": SMALL, "short_edge": 64} | options
    return prepare(train=shapes, val=None, model=str(tiny_run), output=output, **options)


def test_from_data_to_report(shapes, tiny_run, tmp_path):
    output = tmp_path / "mine"
    job = planned(shapes, tiny_run, output)
    assert not output.exists()
    text = "\n".join(job.lines)
    assert (
        "2: star, ring" in text and "starting at random: roi_heads.box_predictor.cls_score" in text
    )
    results = run(job)
    assert set(results) == {"bbox", "segm"}
    assert "mine" in (output / "report" / "report.html").read_text()
    pictures = sorted((output / "images").iterdir())
    assert len(pictures) == 2 and Image.open(pictures[0]).width > 500  # two, enlarged

    # The config is all that the training tool needs, and the run all that predicting does.
    again = load_config(str(output / "config.yaml"), ["train.init_checkpoint="])
    check_config(again)
    assert (again.train.max_iter, again.optimizer.lr) == (3, job.cfg.optimizer.lr)
    predictor = Predictor(*find_model(str(output)), device="cpu", threshold=0)
    assert predictor.classes == ["star", "ring"]

    with pytest.raises(FileExistsError, match="holds a run.*--resume"):
        planned(shapes, tiny_run, output)
    longer = resumed(output, ["train.max_iter=4"])
    assert longer.resume and longer.files == {} and longer.cfg.train.max_iter == 4


def test_classes_follow_the_order_of_the_weights(shapes, tiny_run, tmp_path):
    """Whose last layers then stay."""
    whole = torch.load(tiny_run / "model_final.pth")["model"]
    names = list(CLASSES[::-1])
    torch.save({"model": whole, "classes": names}, tmp_path / "w.pth")
    every = shapes[0], str(Path(shapes[0], "annotations.json"))
    job = planned(every, tiny_run, tmp_path / "out", weights=str(tmp_path / "w.pth"))
    text = "\n".join(job.lines)
    assert "order of the weights'" in text and f"6: {', '.join(names)}" in text
    assert "starting at random" not in text
    for described, coco in zip(job.cfg.datasets.values(), job.files.values()):
        assert [each["name"] for each in coco["categories"]] == names
        assert [(each.id, each.name) for each in described.categories] == [*enumerate(names, 1)]
    old = {a["id"]: a for a in json.loads(Path(every[1]).read_text())["annotations"]}
    for each in coco["annotations"]:
        assert names[each["category_id"] - 1] == CLASSES[old[each["id"]]["category_id"] - 1]


def test_boxes_alone_leave_the_mask_head_out(shapes, tiny_run, tmp_path):
    coco = json.loads(Path(shapes[1]).read_text())
    for each in coco["annotations"]:
        del each["segmentation"]
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    job = planned((shapes[0], str(tmp_path / "boxes.json")), tiny_run, tmp_path / "out")
    assert any("without its mask head" in line for line in job.lines)
    assert "mask_head" not in job.cfg.model.roi_heads
    assert not job.cfg.dataloader.train.mapper.use_instance_mask
    assert list(job.cfg.dataloader.evaluator.tasks) == ["bbox"]


def test_rate_and_steps_follow_the_batch(shapes, tiny_run, tmp_path):
    plain = planned(shapes, tiny_run, tmp_path / "a", overrides=[]).cfg
    batch = plain.dataloader.train.total_batch_size
    larger = planned(
        shapes,
        tiny_run,
        tmp_path / "a",
        overrides=[f"dataloader.train.total_batch_size={4 * batch}"],
    ).cfg
    assert larger.optimizer.lr == pytest.approx(4 * plain.optimizer.lr)
    assert larger.train.max_iter == pytest.approx(plain.train.max_iter / 4, abs=1)


def test_random_values(shapes, tiny_run, tmp_path):
    job = planned(shapes, tiny_run, tmp_path / "a", weights="none", overrides=[])
    assert job.cfg.train.init_checkpoint == ""
    assert "none (random values)" in "\n".join(job.lines)
    assert job.cfg.train.max_iter >= 3 * 4000 / job.cfg.dataloader.train.total_batch_size


def test_a_failed_check_leaves_nothing(shapes, tiny_run, tmp_path):
    job = planned(shapes, tiny_run, tmp_path / "a", overrides=["train.device=tpu"])
    with pytest.raises(ValueError, match="tpu"):
        run(job)
    assert not (tmp_path / "a").exists()


def test_a_row_without_its_weights_at_hand(shapes, tmp_path):
    job = prepare(
        train=shapes,
        val=None,
        model="mask_rcnn_regnetx_400mf_fpn_3x",
        output=tmp_path / "a",
        fetch=False,
    )
    text = "\n".join(job.lines)
    assert "regnet://mmdet/mask_rcnn_regnetx_400mf_fpn_3x (a trained detector" in text
    short_edge = int(re.search(r"short edge (\d+)", text)[1])
    assert 192 <= short_edge <= 320 and short_edge % 32 == 0  # of images of 96 to 160


def test_what_is_refused(shapes, tiny_run, tmp_path):
    with pytest.raises(ValueError, match="--short-edge"):
        planned(shapes, tiny_run, tmp_path, short_edge=3)
    with pytest.raises(FileNotFoundError, match="no config.yaml"):
        resumed(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="max_itr"):
        planned(shapes, tiny_run, tmp_path, overrides=["train.max_itr=3"])
    with pytest.raises(ValueError, match="yacs"):
        prepare(
            train=shapes,
            val=None,
            model="mask_rcnn_regnetx_400mf_fpn_3x.yaml",
            output=tmp_path / "a",
            fetch=False,
        )


@pytest.fixture
def published_backbone(tmp_path, monkeypatch):
    """A folder that stands in for the network, with a RegNetY's weights as pycls publishes them."""
    torch.manual_seed(0)
    state = build_regnet(get_arch("RegNetY-200MF"), norm="BN").state_dict()
    (tmp_path / "mirror").mkdir()
    file = address("regnet://pycls/RegNetY-200MF").rpartition("/")[2]
    torch.save({"model_state": state}, tmp_path / "mirror" / file)
    monkeypatch.setenv("D2_REGNET_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("weights", [None, "regnet://pycls/RegNetY-200MF"])
def test_a_model_with_a_published_backbone_only(shapes, tmp_path, published_backbone, weights):
    """Of RegNetYs no detectors are published: training begins with the backbone."""
    job = planned(
        shapes, "mask_rcnn_regnety_200mf_fpn_1x", tmp_path / "a", weights=weights, overrides=[]
    )
    assert job.cfg.train.init_checkpoint == "regnet://pycls/RegNetY-200MF"
    assert "a backbone alone: " in "\n".join(job.lines)
    shown = job.cfg.train.max_iter * job.cfg.dataloader.train.total_batch_size
    assert 8000 <= shown < 9000  # the effort that a backbone gets
    job.check()


def test_backbones_of_other_models_are_refused(shapes, tmp_path, published_backbone):
    with pytest.raises(ValueError, match=r"its backbone, which would stay random.*bottom_up"):
        planned(
            shapes,
            "mask_rcnn_regnety_400mf_fpn_1x",
            tmp_path / "a",
            weights="regnet://pycls/RegNetY-200MF",
        )
