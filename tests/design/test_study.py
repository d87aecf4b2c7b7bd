"""The study's task and training: crops by hand, determinism, going on after a stop."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from d2_regnet.data.shapes import CLASSES, render
from d2_regnet.design import study
from d2_regnet.design.sampling import AnyNetArch

PLAN = study.Plan(
    ("anynet_a", "constrained"), n=2, flops=4e7, steps=2, batch_size=4, train_images=3,
    test_images=2,
)  # fmt: skip
TINY = AnyNetArch((8, 8), (1, 1), (8, 8), (1.0, 1.0))


def test_crops_are_the_shapes_cut_out():
    crops = study.make_crops("val", 2)
    scenes = [render(0, "val", index) for index in range(2)]
    kinds = [kind for _, kinds, _ in scenes for kind in kinds]
    assert [CLASSES[i] for i in crops.classes] == kinds
    assert crops.images.shape == (len(kinds), 3, 64, 64) and crops.images.dtype == torch.uint8
    # A shape's middle part keeps its colours; the border is grey.
    image, _, seen = scenes[0]
    mask = seen == 1
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    inside = image[mask].mean(axis=0)
    grown = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    share = mask.sum() / round(study.MARGIN * grown) ** 2
    expected = share * inside + (1 - share) * study.GREY
    assert crops.images[0].float().mean(dim=(1, 2)).numpy() == pytest.approx(expected, abs=3)
    assert (crops.images[:, :, :4, :] == study.GREY).all()


def test_training_learns_what_is_easy():
    """Two classes that differ in brightness are told apart after a few steps."""
    images = torch.randint(0, 30, (40, 3, 32, 32), dtype=torch.uint8)
    classes = torch.arange(40) % 2
    images[classes == 1] += 200
    crops = study.Crops(images, classes)
    plan = dataclasses.replace(PLAN, steps=40, batch_size=8)
    model = study.train(TINY, crops, plan)
    assert study.error(model, crops, batch_size=7) == 0
    wrong = study.Crops(images, 1 - classes)
    assert study.error(model, wrong) == 100


def test_a_stopped_study_goes_on_to_the_same_numbers(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    results = study.run(PLAN, whole)
    assert {space: len(rows) for space, rows in results.items()} == {
        "anynet_a": 2,
        "constrained": 2,
    }

    def stopping(left):
        yield from list(left)[:3]

    study.run(PLAN, parts, stopping)
    assert sum(map(len, study.load(PLAN, parts / "results.json").values())) == 3
    resumed = []
    assert study.run(PLAN, parts, lambda left: resumed.extend(left) or left) == results
    assert len(resumed) == 1
    assert json.loads((parts / "results.json").read_text())["results"] == results
    for row in results["constrained"]:
        assert 0 <= row["error"] <= 100 and abs(row["flops"] - 4e7) <= 0.05 * 4e7
        assert row["depth"] == row["parameters"]["depth"]
    with pytest.raises(ValueError, match=r"results.json holds a study with steps 2, not 3"):
        study.run(dataclasses.replace(PLAN, steps=3), parts)
    (parts / "results.json").write_text("{")
    with pytest.raises(ValueError, match="holds no results of a study"):
        study.run(PLAN, parts)


@pytest.mark.parametrize("change", [{"n": 0}, {"steps": 0}, {"batch_size": -1}, {"lr": 0}])
def test_impossible_plans(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(PLAN, **change)


def rows(*errors):
    return [{"error": each, "depth": 10 + i} for i, each in enumerate(errors)]


def test_few_networks_have_no_interval():
    """Two numbers say nothing of how others would come out."""
    few = study.text({"anynet_a": rows(40.0, 50.0), "regnet": rows(30.0, 31.0)})
    assert "mean error of regnet minus that of anynet_a: -14.5 points" in few
    assert "95%" not in few and " to " not in few
    many = study.text({"anynet_a": rows(*range(30, 42)), "regnet": rows(*range(20, 32))})
    assert "-10.0 points (95% of bootstrap draws: " in many
