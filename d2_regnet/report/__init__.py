"""A training run's folder as one page: curves, numbers, config and sample predictions."""

import re
from collections.abc import Sequence
from pathlib import Path

from d2_regnet.utils.charts import Curve, draw
from d2_regnet.utils.files import write_file

from .page import render
from .published import check_model, differences, published_ap, recognise, source
from .runs import VALIDATION, Run, read_runs, task_title
from .samples import NewSamples, collect

__all__ = ["Report", "read_runs"]

PAGE = "report.html"


class Report:
    """A report on one or several runs, of which all input is read before anything is written."""

    def __init__(
        self, folders: Sequence[Path], *, model: str | None = None, samples: int | None = None
    ):
        """
        Args:
            folders: of the runs; metrics.json must be there, the rest may be.
            model: compare with this model's published AP; default: each run with the model whose
                settings it has, if there is one.
            samples: let each run's model predict on so many test images; default: the images that
                lie in the folder.

        Raises:
            FileNotFoundError: no such folder, or no metrics.json.
            ValueError: nothing in a metrics.json can be read, an unknown model, or no checkpoint or
                test images for the samples.
        """
        if samples is not None and samples < 1:
            raise ValueError(f"--samples must be at least 1, not {samples}")
        model = check_model(model) if model else None
        self.runs = read_runs(folders)
        found = {run.name: model or recognise(run) for run in self.runs}
        self.models = {name: each for name, each in found.items() if each}
        self._new = {run.name: NewSamples(run, samples) for run in self.runs if samples}

    def write(self, folder: Path) -> list[Path]:
        """Draws, predicts and writes; each file appears whole.

        Args:
            folder: made if need be; earlier files of the same names are replaced.

        Returns:
            The page, and the curves as PNG files.
        """
        charts = _charts(self.runs, self.models)
        samples, others = {}, {}
        for run in self.runs:
            if run.name in self._new:
                note = "Made for this report with the newest checkpoint, on the first test images."
                samples[run.name] = self._new[run.name].draw(), note
            else:
                samples[run.name] = collect(run)
            if run.name in self.models:
                others[run.name] = differences(run, self.models[run.name])
        page = render(self.runs, self.models, charts, samples, others)
        files = {folder / PAGE: page.encode()}
        for section in charts.values():
            files |= {folder / _file_name(title): image for title, image in section}
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            write_file(file, content)
        return list(files)


def _charts(runs: Sequence[Run], models: dict[str, str]) -> dict[str, list[tuple[str, bytes]]]:
    """Title and PNG of each chart, by section."""

    def chart(title, unit, of_run):
        curves = [Curve(run.name, of_run(run), index) for index, run in enumerate(runs)]
        return title, draw(title, unit, curves, legend=len(runs) > 1)

    def loss_chart(name):
        curves = [Curve(run.name, run.curve(name), index) for index, run in enumerate(runs)]
        for index, run in enumerate(runs):
            points = run.curve(VALIDATION + name)
            if points[0]:
                curves.append(Curve(f"{run.name}, test data", points, index, faint=True))
        return name, draw(name, "loss", curves, legend=len(curves) > 1)

    losses = list(dict.fromkeys(name for run in runs for name in run.losses))
    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    sections = {
        "Losses": [loss_chart(name) for name in losses],
        "Average precision": [_ap_chart(runs, task, models) for task in tasks],
        "Learning rate, speed and memory": [
            chart("learning rate", "", lambda run: run.curve("lr")),
            chart("time of a step", "s", lambda run: run.curve("time")),
            chart("time waiting for data", "s", lambda run: run.curve("data_time")),
            chart("GPU memory, peak", "MiB", lambda run: ([*run.memory], [*run.memory.values()])),
        ],
    }
    return {name: [each for each in found if each[1]] for name, found in sections.items()}


def _ap_chart(runs: Sequence[Run], task: str, models: dict[str, str]) -> tuple[str, bytes | None]:
    if len(runs) == 1:
        curves = [
            Curve(metric, runs[0].ap_curve(task, metric), index, faint=index > 0)
            for index, metric in enumerate(("AP", "AP50", "AP75"))
        ]
    else:
        curves = [Curve(run.name, run.ap_curve(task), index) for index, run in enumerate(runs)]
    levels, several = {}, len(set(models.values())) > 1
    for model in dict.fromkeys(models.values()):
        if ap := published_ap(model).get(task):
            of_model = f" {model}" if several else ""
            levels[f"published{of_model}, {source(model)}: {ap:.1f}"] = ap
    title = f"{task_title(task)} AP"
    return title, draw(title, "AP", curves, levels=levels, marked=True)


def _file_name(title: str) -> str:
    return re.sub(r"[^\w.-]+", "_", title, flags=re.ASCII).strip("._").lower() + ".png"
