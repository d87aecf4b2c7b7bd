"""Sample predictions: drawn before, from an evaluation's file, or by the run's own model."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_regnet.data import register_shapes
from d2_regnet.engine import load_config
from d2_regnet.engine.checkpointer import Checkpointer
from d2_regnet.report.runs import Run, flatten
from d2_regnet.report.samples import NewSamples, collect

DATASET = "shapes_seed5_val3"
CONFIG = str(Path(__file__).parents[2] / "configs" / "mask_rcnn_regnetx_200mf_fpn_shapes.py")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    folder.mkdir()
    config = flatten({"dataloader": {"test": {"dataset": {"names": DATASET}}}})
    return Run("run", folder, {1: {"total_loss": 1.0}}, {}, config=config)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def write_results(run, change=lambda each: each):
    """The ground truth of the first image as predictions."""
    register_shapes(5, {"val": 3})
    record = DatasetCatalog.get(DATASET)[0]
    ids = {v: k for k, v in MetadataCatalog.get(DATASET).thing_dataset_id_to_contiguous_id.items()}
    found = []
    for each in record["annotations"]:
        counts = each["segmentation"]["counts"]
        found.append(
            {
                "image_id": record["image_id"],
                "category_id": ids[each["category_id"]],
                "bbox": each["bbox"],
                "segmentation": {
                    "size": each["segmentation"]["size"],
                    "counts": counts.decode() if isinstance(counts, bytes) else counts,
                },
                "score": 0.9,
            }
        )
    (run.folder / "inference").mkdir(exist_ok=True)
    file = run.folder / "inference" / "coco_instances_results.json"
    file.write_text(json.dumps([change(each) for each in found]))


def test_images_of_the_run_come_first(run):
    (run.folder / "images").mkdir()
    for name, colour in (("b", "red"), ("a", "blue")):
        Image.new("RGB", (3000, 10), colour).save(run.folder / "images" / f"{name}.png")
    (run.folder / "images" / "c.png").write_bytes(b"broken")
    samples, _ = collect(run)
    assert [each.title for each in samples] == ["a.png", "b.png"]
    [data] = samples[0].images.values()
    assert pixels(data).shape[1] <= 1920
    assert abs(pixels(data)[0, 0] - [0, 0, 255]).max() < 8


def test_predictions_of_an_evaluation_are_drawn_beside_the_truth(run):
    write_results(run)
    samples, note = collect(run)
    assert "last evaluation" in note
    assert len(samples) == 3
    first, second = (each.images for each in samples[:2])
    assert [*first] == ["ground truth", "prediction"]
    assert [*second] == ["ground truth", "prediction (none of 50% or more)"]
    truth, prediction = map(pixels, first.values())
    assert truth.shape == prediction.shape
    write_results(run, lambda each: each | {"score": 0.0})
    bare = pixels(collect(run)[0][0].images["prediction (none of 50% or more)"])
    # Detectron2 paints the two at different strengths; where it paints is the same.
    painted, expected = (abs(each - bare).max(2) > 25 for each in (prediction, truth))
    assert (painted & expected).sum() > 0.7 * (painted | expected).sum()
    truth, nothing = map(pixels, second.values())
    assert (abs(truth - nothing).max(2) > 40).mean() > 0.02


def test_predictions_of_low_score_are_not_drawn(run):
    write_results(run, lambda each: each | {"score": 0.49})
    samples, _ = collect(run)
    assert [*samples[0].images][1] == "prediction (none of 50% or more)"


@pytest.mark.parametrize("text", ["", "[1]", '[{"image": 0}]'])
def test_a_broken_file_of_predictions_is_said(run, text):
    (run.folder / "inference").mkdir()
    (run.folder / "inference" / "coco_instances_results.json").write_text(text)
    samples, note = collect(run)
    assert samples == []
    assert "cannot be drawn here" in note


def test_an_unknown_data_set_is_said(run):
    write_results(run)
    run.config["dataloader.test.dataset.names"] = "nobodys_val"
    samples, note = collect(run)
    assert samples == []
    assert "'nobodys_val' is not registered" in note


def test_nothing_to_show_is_said(run):
    samples, note = collect(run)
    assert samples == []
    assert note.startswith("None: the folder has neither")


def test_a_predictor_needs_a_config_a_checkpoint_and_a_data_set(run):
    with pytest.raises(ValueError, match=r"no config\.yaml"):
        NewSamples(run, 1)
    cfg = load_config(CONFIG)
    cfg.dataloader.test.dataset.names = "nobodys_val"
    LazyConfig.save(cfg, str(run.folder / "config.yaml"))
    with pytest.raises(ValueError, match="no checkpoint"):
        NewSamples(run, 1)
    (run.folder / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(ValueError, match="'nobodys_val' is not registered"):
        NewSamples(run, 1)


def test_the_newest_checkpoint_predicts(run, seed):
    cfg = load_config(CONFIG)
    cfg.dataloader.test.dataset.names = DATASET
    cfg.train.output_dir = "elsewhere"  # the folder may have been moved
    LazyConfig.save(cfg, str(run.folder / "config.yaml"))
    model = instantiate(cfg.model)
    bias = model.roi_heads.box_predictor.cls_score.bias
    torch.nn.init.constant_(bias, -20)
    for name, favoured in (("old", 0), ("new", 1)):
        with torch.no_grad():
            bias.fill_(-20)
            bias[favoured] = 20  # everything is of this class
        Checkpointer(model, str(run.folder)).save(name)
    expected = model.eval()
    new = NewSamples(run, 2)
    samples = new.draw()
    assert len(samples) == 2
    with torch.no_grad():
        mapper = instantiate(cfg.dataloader.test.mapper)
        outputs = expected([mapper(dict(new._records[0]))])[0]["instances"]
    assert (outputs.scores > 0.5).any()
    assert (outputs.pred_classes[outputs.scores > 0.5] == 1).all()
    assert [*samples[0].images] == ["ground truth", "prediction"]
