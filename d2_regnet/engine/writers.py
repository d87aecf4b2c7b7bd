"""Where a run's metrics go: its own files, TensorBoard, Weights & Biases, MLflow."""

import importlib.util
import os
import re
import time
from pathlib import Path

from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

from .hooks import PatientWriter

__all__ = ["LOGGERS", "MLflowWriter", "WandbWriter", "build_writers", "check_installed"]

_WINDOW = 20  # steps that smoothed metrics are the median of, as with Detectron2's writers


class _TrackerWriter(EventWriter):
    """Sends to a tracker what is new, as `TensorboardXWriter` does; opens it at the first metrics.

    A resumed training continues the tracker's run, whose id is in the file `<NAME>_run` of the
    folder; the first steps, which a kill has made it repeat, are then sent again.
    """

    NAME = ""

    def __init__(self, folder: str):
        """
        Args:
            folder: the run's; the tracker's run is called like it.
        """
        self._folder, self._run, self._last = Path(folder).absolute(), None, -1

    def write(self):
        if self._run is None:
            file = self._folder / f"{self.NAME}_run"
            self._run, identity = self._open(file.read_text() if file.is_file() else None)
            file.write_text(identity)
        steps: dict[int, dict[str, float]] = {}
        for name, (value, step) in get_event_storage().latest_with_smoothing_hint(_WINDOW).items():
            if step > self._last:
                steps.setdefault(step, {})[name] = value
        for step in sorted(steps):
            self._log(steps[step], step)
            self._last = step

    def close(self):
        if self._run is not None:
            self._finish()


class WandbWriter(_TrackerWriter):
    """Weights & Biases; its environment variables count, such as `WANDB_MODE=offline`."""

    NAME = "wandb"

    def _open(self, identity: str | None) -> tuple:
        import wandb

        run = wandb.init(dir=self._folder, name=self._folder.name, id=identity, resume="allow")
        return run, run.id

    def _log(self, metrics: dict[str, float], step: int):
        self._run.log(metrics, step=step)

    def _finish(self):
        self._run.finish()


class MLflowWriter(_TrackerWriter):
    """MLflow; its environment variables count, such as `MLFLOW_TRACKING_URI`."""

    NAME = "mlflow"

    def _open(self, identity: str | None) -> tuple:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        if identity is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
            known = self._client.get_experiment_by_name(name)
            experiment = known.experiment_id if known else self._client.create_experiment(name)
            run = self._client.create_run(experiment, run_name=self._folder.name)
            identity = run.info.run_id
        return identity, identity

    def _log(self, metrics: dict[str, float], step: int):
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        sent = [Metric(re.sub(r"[^\w\-./: ]", "_", n), v, now, step) for n, v in metrics.items()]
        self._client.log_batch(self._run, metrics=sent)

    def _finish(self):
        self._client.set_terminated(self._run)


# The name in `train.loggers` -> the writer, and the package that has its library.
LOGGERS = {
    "tensorboard": (TensorboardXWriter, "tensorboard"),
    "wandb": (WandbWriter, "wandb"),
    "mlflow": (MLflowWriter, "mlflow"),
}
RUN_FILES = tuple(f"{writer.NAME}_run" for writer in (WandbWriter, MLflowWriter))


def check_installed(name: str, key: str) -> None:
    """
    Raises:
        ValueError: naming the key: the library of a logger is not installed.
    """
    spec = importlib.util.find_spec(LOGGERS[name][1])
    if spec is None or spec.origin is None:  # a folder of that name, where its runs lie
        raise ValueError(f"{key}: {name} is not installed: pip install {LOGGERS[name][1]}")


def build_writers(folder: str, max_iter: int, loggers: tuple[str, ...]) -> list[EventWriter]:
    """Detectron2's printer and `metrics.json`, and the loggers; none of them ends a training.

    Args:
        folder: of the run.
        max_iter: the length of the training.
        loggers: names in `LOGGERS`.
    """
    os.makedirs(folder, exist_ok=True)
    own = CommonMetricPrinter(max_iter), JSONWriter(os.path.join(folder, "metrics.json"))
    return [
        *map(PatientWriter, own),
        *(PatientWriter(LOGGERS[name][0](folder), Exception) for name in loggers),
    ]
