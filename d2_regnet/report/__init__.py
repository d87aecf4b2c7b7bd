"""A training run's folder as one page: curves, numbers, config and sample predictions."""

import re
from collections.abc import Sequence
from pathlib import Path

from d2_regnet import model_zoo
from d2_regnet.utils.charts import Curve, draw
from d2_regnet.utils.files import whole_file

from .page import render
from .published import SOURCES, check_row, differences, published_ap, recognise
from .runs import Run, read_runs, task_title
from .samples import NewSamples, collect

__all__ = ["Report", "read_runs"]

PAGE = "report.html"


class Report:
    """A report on one or several runs, of which all input is read before anything is written."""

    def __init__(
        self, folders: Sequence[Path], *, row: str | None = None, samples: int | None = None
    ):
        """
        Args:
            folders: of the runs; metrics.json must be there, the rest may be.
            row: compare with this row's published AP; by default each run with the row of which it
                has the settings, if there is one.
            samples: let each run's model predict on so many test images; by default the images
                are those that lie in the folder.

        Raises:
            FileNotFoundError: no such folder, or no metrics.json.
            ValueError: nothing in a metrics.json can be read, an unknown row, or no model or no
                test images for the samples.
        """
        if samples is not None and samples < 1:
            raise ValueError(f"--samples must be at least 1, not {samples}")
        row = check_row(row) if row else None
        self.runs = read_runs(folders)
        found = {run.name: row or recognise(run) for run in self.runs}
        self.rows = {name: each for name, each in found.items() if each}
        self._new = {run.name: NewSamples(run, samples) for run in self.runs if samples}

    def write(self, folder: Path) -> list[Path]:
        """Draws, predicts and writes; each file appears whole.

        Args:
            folder: made if need be; earlier files of the same names are replaced.

        Returns:
            The page, and the curves as PNG files.
        """
        charts = _charts(self.runs, self.rows)
        samples = {}
        for run in self.runs:
            if run.name in self._new:
                note = "Made for this report with the newest checkpoint, on the first test images."
                samples[run.name] = self._new[run.name].draw(), note
            else:
                samples[run.name] = collect(run)
        by_run = {run.name: run for run in self.runs}
        others = {name: differences(by_run[name], row) for name, row in self.rows.items()}
        page = render(self.runs, self.rows, charts, samples, others, model_zoo.rows())
        folder.mkdir(parents=True, exist_ok=True)
        pictures = [picture for section in charts.values() for picture in section]
        names = [_file_name(title) for title, _ in pictures]
        files = {folder / name: data for name, (_, data) in zip(names, pictures)}
        for file, data in {folder / PAGE: page.encode(), **files}.items():
            with whole_file(file) as out:
                out.write(data)
        return [folder / PAGE, *files]


def _charts(runs: Sequence[Run], rows: dict[str, str]) -> dict[str, list[tuple[str, bytes]]]:
    """Title and PNG of each chart, by section."""
    several = len(runs) > 1

    def chart(title, unit, of_run, **options):
        curves = [Curve(run.name, of_run(run), index) for index, run in enumerate(runs)]
        return title, draw(title, unit, curves, legend=several, **options)

    losses = list(dict.fromkeys(name for run in runs for name in run.losses))
    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    sections = {
        "Losses": [chart(name, "loss", lambda run, n=name: run.curve(n)) for name in losses],
        "Average precision": [_ap_chart(runs, task, rows) for task in tasks],
        "Learning rate, speed and memory": [
            chart("learning rate", "", lambda run: run.curve("lr")),
            chart("time of a step", "s", lambda run: run.curve("time")),
            chart("time waiting for data", "s", lambda run: run.curve("data_time")),
            chart("GPU memory, peak", "MiB", lambda run: ([*run.memory], [*run.memory.values()])),
        ],
    }
    return {name: [each for each in found if each[1]] for name, found in sections.items()}


def _ap_chart(runs: Sequence[Run], task: str, rows: dict[str, str]) -> tuple[str, bytes | None]:
    curves = [Curve(run.name, run.ap_curve(task), index) for index, run in enumerate(runs)]
    if len(runs) == 1:
        curves = [
            Curve(metric, runs[0].ap_curve(task, metric), index, faint=index > 0)
            for index, metric in enumerate(("AP", "AP50", "AP75"))
        ]
    levels = {}
    for row in dict.fromkeys(rows.values()):
        if task in published_ap(row):
            source = SOURCES[model_zoo.rows()[row]["source"]]
            of_row = f" {row}" if len(set(rows.values())) > 1 else ""
            levels[f"published{of_row}, {source}: {published_ap(row)[task]:.1f}"] = published_ap(
                row
            )[task]
    title = f"{task_title(task)} AP"
    return title, draw(title, "AP", curves, levels=levels, marked=True)


def _file_name(title: str) -> str:
    return re.sub(r"[^\w.-]+", "_", title, flags=re.ASCII).strip("._").lower() + ".png"
