"""Metrics in trackers, offline, where their libraries are there; and that none ends a training."""

import os
import re

import pytest
from detectron2.engine import PeriodicWriter
from detectron2.utils.events import EventStorage, EventWriter

from d2_regnet.engine import writers
from d2_regnet.engine.writers import LOGGERS, MLflowWriter, WandbWriter, build_writers


def log(folder, loggers, steps, start=0):
    """Three metrics of so many steps, of which one is an evaluation's."""
    written = build_writers(str(folder), 9, loggers)
    with EventStorage(start) as storage:
        for step in range(start, start + steps):
            storage.iter = step
            storage.put_scalar("total_loss", 10.0 - step)
            storage.put_scalar("bbox/AP", 2.0 * step, smoothing_hint=False)
            for writer in written:
                writer.write()
        storage.iter = 9  # as a trainer has it at the end
        for writer in written:
            writer.write()
            writer.close()


def test_metrics_of_all_steps_reach_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    store = (tmp_path / "store").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "shapes")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "mine"
    log(folder, ("mlflow",), 3)
    log(folder, ("mlflow",), 2, start=3)  # resumed
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("shapes")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "mine" and run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "bbox/AP")
    assert [(each.step, each.value) for each in points] == [(i, 2.0 * i) for i in range(5)]


def leveldb_log(log):
    """The records of a log in LevelDB's format: blocks of 32 KiB, which a record may span."""
    record, place = b"", 0
    while place + 7 <= len(log):
        if (left := 32768 - (place + 7) % 32768) < 7:  # after wandb's header of 7 bytes
            place += left
            continue
        size, kind = int.from_bytes(log[place + 4 : place + 6], "little"), log[place + 6]
        record += log[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_metrics_of_all_steps_reach_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "mine"
    log(folder, ("wandb",), 3)
    log(folder, ("wandb",), 2, start=3)
    found, names = {}, set()
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=os.path.getmtime):
        for record in map(Record.FromString, leveldb_log(path.read_bytes()[7:])):
            if record.HasField("run"):
                names.add((record.run.run_id, record.run.display_name))
            items = {
                (item.key or "/".join(item.nested_key)): float(item.value_json)
                for item in record.history.item
                if re.fullmatch(r"-?[\d.]+", item.value_json)
            }
            if "bbox/AP" in items:
                found[int(items["_step"])] = items["bbox/AP"]
    assert found == {i: 2.0 * i for i in range(5)}
    assert len(names) == 1 and names.pop()[1] == "mine"


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_logger_that_fails_is_a_warning(tmp_path, monkeypatch, caplog, name):
    class Failing(EventWriter):
        def write(self):
            raise ValueError("no connection")

        close = write

    monkeypatch.setitem(LOGGERS, name, (lambda folder: Failing(), name))
    log(tmp_path, (name,), 3)
    assert caplog.text.count("Failing cannot write metrics: no connection") == 1
    assert len((tmp_path / "metrics.json").read_text().splitlines()) == 3


def test_a_library_that_cannot_be_imported_is_a_warning(tmp_path, monkeypatch, caplog):
    for writer in (WandbWriter, MLflowWriter):
        monkeypatch.setitem(__import__("sys").modules, writer.NAME, None)
    log(tmp_path, ("wandb", "mlflow"), 2)
    assert "WandbWriter cannot write" in caplog.text and "MLflowWriter cannot" in caplog.text
    assert not list(tmp_path.glob("*_run"))


def test_without_loggers_the_runs_own_files_are_left(tmp_path):
    log(tmp_path, (), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    log(tmp_path, ("tensorboard",), 1)
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert PeriodicWriter(writers.build_writers(str(tmp_path), 1, ()))
