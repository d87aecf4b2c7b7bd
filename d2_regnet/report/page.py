"""The page: one HTML file that needs nothing but itself; its text is in page.html."""

import base64
import math
from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined

from d2_regnet.utils.charts import COLOURS

from .published import different, published_ap, source
from .runs import Run, task_title
from .samples import Sample

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def render(
    runs: Sequence[Run],
    models: dict[str, str],
    charts: dict[str, list[tuple[str, bytes]]],
    samples: dict[str, tuple[list[Sample], str]],
    differences: dict[str, dict[str, tuple]],
) -> str:
    """The page's HTML. Everything that comes from a file is escaped.

    Args:
        runs: in the order of the columns.
        models: the published model to compare a run with, by the run's name; of runs that have one.
        charts: title and PNG, by section ("Losses", ...).
        samples: a run's images and a word on them, by the run's name.
        differences: settings other than the model's, as `published.differences`, by run.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "base64": lambda data: base64.b64encode(data).decode(),
        "shown": _shown,
        "share": _share,
        "source": source,
        "task_title": task_title,
    }
    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    by_class = [
        (run, task, found) for run in runs for task in tasks if (found := run.classes(task))
    ]
    configs = {run.name: run.config for run in runs if run.config}
    template = resources.files(__package__).joinpath("page.html").read_text("utf-8")
    return environment.from_string(template).render(
        title="Training report: " + ", ".join(run.name for run in runs),
        runs=runs,
        models=models,
        charts=charts,
        samples=samples,
        differences=differences,
        published={model: published_ap(model) for model in dict.fromkeys(models.values())},
        tasks=tasks,
        metrics=_METRICS,
        by_class=by_class,
        classes=_best_first([found for _, _, found in by_class]),
        with_config=list(configs),
        between=different(list(configs.values())) if len(configs) > 1 else {},
        colours=COLOURS,
    )


def _best_first(columns: list[dict[str, float]]) -> list[str]:
    """The classes of all columns, by their AP in the first; those without one last."""
    names = dict.fromkeys(name for column in columns for name in column)
    return sorted(names, key=lambda name: -_or(columns[0].get(name), -1.0))


def _shown(value: float | None, form: str = ".1f") -> str:
    return "n/a" if _or(value, None) is None else f"{value:{form}}"


def _share(value: float | None) -> str:
    """How much of a bar from 0 to 100 is filled."""
    return f"{min(max(_or(value, 0.0), 0.0), 100.0):.1f}%"


def _or(value: float | None, other: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else other
