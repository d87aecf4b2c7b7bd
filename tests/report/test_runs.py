"""metrics.json, by hand: numbers, broken lines, steps repeated by a resumed run."""

import json
import math
from pathlib import Path

import pytest

from d2_regnet.report.runs import Run, flatten, parse_config, parse_metrics, read_runs, task_title


def lines(*records):
    return [json.dumps(record) for record in records]


def train(iteration, loss, **more):
    return {"iteration": iteration, "total_loss": loss, **more}


def test_training_and_evaluations_are_told_apart():
    training, evaluations, broken = parse_metrics(
        lines({**train(9, 2.5, lr=0.02), "bbox/AP": 12.5, "bbox/AP50": 30, "segm/AP-a/b": 7.0})
    )
    assert training == {10: {"total_loss": 2.5, "lr": 0.02}}
    assert evaluations == {10: {"bbox": {"AP": 12.5, "AP50": 30.0}, "segm": {"AP-a/b": 7.0}}}
    assert broken == 0


def test_several_lines_of_one_step_belong_together():
    training, _, _ = parse_metrics(lines({"iteration": 3, "time": 0.5}, train(3, 1.0)))
    assert training == {4: {"time": 0.5, "total_loss": 1.0}}


def test_a_line_of_an_earlier_step_without_losses_is_no_step_back():
    """Detectron2 writes a metric that was not put lately under the step it is of."""
    training, _, _ = parse_metrics(
        lines(train(19, 1.0), {"iteration": 17, "fast_rcnn/fg_cls_accuracy": 0.5}, train(39, 0.9))
    )
    assert [*training] == [18, 20, 40]


def test_a_resumed_run_replaces_what_it_repeats():
    training, evaluations, _ = parse_metrics(
        lines(
            train(9, 3.0),
            train(19, 2.0),
            {"iteration": 24, "bbox/AP": 1.0},
            train(29, 1.0),  # killed after a checkpoint at 15, and resumed
            train(20, 2.2),
            train(30, 1.2),
        )
    )
    assert {step: each["total_loss"] for step, each in training.items()} == {
        **{10: 3.0, 20: 2.0, 21: 2.2, 31: 1.2}
    }
    assert evaluations == {}  # that of step 25 was of the weights that are gone


def test_the_last_evaluation_counts_for_the_last_step():
    """Detectron2 writes it, and those of a complete run that is resumed, under later steps."""
    _, evaluations, _ = parse_metrics(
        lines(
            train(99, 1.0),
            {"iteration": 100, "bbox/AP": 30.0},
            {"iteration": 101, "bbox/AP": 31.0},
        )
    )
    assert evaluations == {100: {"bbox": {"AP": 31.0}}}


@pytest.mark.parametrize("eval_period", [10, 7])  # the last is due at the step after the end
def test_losses_on_the_test_data_belong_to_the_evaluations_step(eval_period):
    training, _, _ = parse_metrics(
        lines(
            train(9, 1.5, loss_cls=1.0),
            {"iteration": 9, "validation/loss_cls": 2.0},
            train(19, 1.0, loss_cls=0.5),
            {"iteration": 20, "validation/loss_cls": 1.5},
        ),
        eval_period,
    )
    run = Run("run", Path(), training, {})
    assert run.losses == ["total_loss", "loss_cls"]
    assert run.curve("validation/loss_cls") == ([10, 20], [2.0, 1.5])


def test_a_last_evaluation_keeps_its_step_when_the_run_is_resumed():
    found = lines(
        *(train(49, 1.5), {"iteration": 49, "bbox/AP": 20.0}),
        *(train(99, 1.0), {"iteration": 100, "bbox/AP": 30.0}),  # after the last of 100 steps
        *(train(149, 0.9), {"iteration": 149, "bbox/AP": 29.0}),  # and 100 more
        *(train(199, 0.8), {"iteration": 200, "bbox/AP": 28.0}),
    )
    assert [*parse_metrics(found, 50)[1]] == [50, 100, 150, 200]
    # An evaluation that is due is of its own step, wherever the losses were last logged.
    due = lines(train(48, 1.0), {"iteration": 49, "bbox/AP": 20.0}, train(55, 1.0))
    assert [*parse_metrics(due, 50)[1]] == [50]


@pytest.mark.parametrize(
    "line",
    [
        '{"iteration": 9, "lo',
        "[1]",
        "7",
        "null",
        '{"total_loss": 1}',
        '{"iteration": "9"}',
        '{"iteration": true}',
        '{"iteration": -1}',
        '{"iteration": 1.5}',
        "\x00\x01",
        "[" * 100000,
    ],
)
def test_a_broken_line_is_counted_and_skipped(line):
    training, evaluations, broken = parse_metrics([*lines(train(0, 1.0)), line, "", "  "])
    assert training == {1: {"total_loss": 1.0}}
    assert (evaluations, broken) == ({}, 1)


def test_what_is_no_number_is_left_out_and_nan_stays():
    training, _, broken = parse_metrics(
        ['{"iteration": 0, "total_loss": NaN, "lr": Infinity, "a": "<b>", "c": [1], "d": true}']
    )
    assert math.isnan(training[1]["total_loss"])
    assert training[1]["lr"] == math.inf
    assert set(training[1]) == {"total_loss", "lr"}
    assert broken == 0


def test_a_config_is_read_without_running_it(tmp_path):
    mark = tmp_path / "ran"
    text = (
        f"evil: !!python/object/apply:os.system ['touch {mark}']\n"
        "shape: !!python/object:detectron2.layers.shape_spec.ShapeSpec {channels: 256}\n"
        "size: !!python/tuple [7, 7]\n"
        "anchors: [[32], [64]]\n"
        "name: ${..other}\n"
    )
    flat = flatten(parse_config(text))
    assert not mark.exists()
    assert flat["shape.channels"] == 256
    assert flat["size"] == [7, 7]
    assert flat["anchors.1"] == [64]
    assert flat["name"] == "${..other}"


@pytest.mark.parametrize("text", ["", "a: [", "- 1", "just text", "a: !!unknown:x {b: 1}"])
def test_a_config_that_cannot_be_read_is_empty(text):
    assert parse_config(text) == {}


def test_task_titles():
    assert [*map(task_title, ("bbox", "coco_2017_val/segm", "panoptic"))] == [
        "Box",
        "coco_2017_val: Mask",
        "panoptic",
    ]


@pytest.fixture
def folder(tmp_path):
    def make(name, *records, **files):
        path = tmp_path / name
        path.mkdir(parents=True)
        (path / "metrics.json").write_text("\n".join(lines(*records)))
        for file, text in files.items():
            (path / file.replace("_", ".")).write_text(text)
        return path

    return make


def test_a_run_of_hand_made_numbers(folder):
    log = "events INFO:  eta: 0:01  iter: 19  total_loss: 1  lr: 0.02  max_mem: {}M\n"
    [run] = read_runs(
        [
            folder(
                "run",
                train(9, 3.0, time=0.5, lr=0.01),
                train(19, 2.0, time=0.3, loss_cls=1.5, lr=0.02),
                {"iteration": 9, "bbox/AP": 10.0, "bbox/AP-cat": 20.0, "bbox/AP-dog": 0.0},
                {"iteration": 20, "bbox/AP": 12.0},
                train(29, 1.0, time=0.4),
                config_yaml="dataloader: {train: {total_batch_size: 8}}\n"
                "train: {max_iter: 40, eval_period: 7}",
                log_txt=log.format(2000) + "iter: 29  max_mem: 2500M\niter: 9  lr: N/A  \n",
            )
        ]
    )
    assert run.steps == 30
    assert run.batch_size == 8
    assert run.losses == ["total_loss", "loss_cls"]
    assert run.curve("time") == ([10, 20, 30], [0.5, 0.3, 0.4])
    assert run.typical("time") == 0.4
    assert run.final("total_loss") == 1.0
    assert math.isnan(run.final("grad_norm"))
    assert run.ap_curve("bbox") == ([10, 21], [10.0, 12.0])
    assert run.final_ap("bbox") == 12.0
    assert run.classes("bbox") == {"cat": 20.0, "dog": 0.0}
    assert run.memory == {20: 2000.0, 30: 2500.0}
    assert (run.planned_steps, run.peak_memory) == (40, 2500.0)
    assert run.images_per_second == 8 / 0.4
    assert run.best_ap("bbox") == (12.0, 21)
    assert math.isnan(run.best_ap("segm")[0]) and math.isnan(run.share_waiting)


@pytest.mark.parametrize(
    "config",
    [
        "{dataloader: {train: {total_batch_size: 8}}, train: {accumulate: 3}}",
        "{SOLVER: {IMS_PER_BATCH: 8, ACCUMULATE: 3}}",
    ],
)
def test_accumulated_batches_are_of_one_step(folder, config):
    [run] = read_runs([folder("run", train(0, 1.0, time=2.0), config_yaml=config)])
    assert (run.batch_size, run.images_per_second) == (24, 12.0)


def test_runs_of_one_name_are_called_by_their_paths(folder):
    paths = [folder("a/run", train(0, 1.0)), folder("b/run", train(0, 1.0))]
    assert [run.name for run in read_runs(paths)] == [*map(str, paths)]
    with pytest.raises(ValueError, match="named twice"):
        read_runs([paths[0], paths[0]])
