"""The page: one HTML file that needs nothing but itself."""

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from string import Template

from d2_regnet.utils.charts import COLOURS

from .published import SOURCES, different, published_ap
from .runs import Run, task_title
from .samples import Sample

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_ABSENT = "n/a"


def render(
    runs: Sequence[Run],
    rows: dict[str, str],
    charts: dict[str, list[tuple[str, bytes]]],
    samples: dict[str, tuple[list[Sample], str]],
    row_differences: dict[str, dict[str, tuple]],
    facts: dict[str, dict],
) -> str:
    """The page's HTML. Everything that comes from a file is escaped.

    Args:
        runs: in the order of the columns.
        rows: the published row of a run, by the run's name; only of runs that have one.
        charts: title and PNG, by section ("Losses", ...).
        samples: a run's images and a word on them, by the run's name.
        row_differences: settings other than the row's, as `published.differences`, by run.
        facts: `model_zoo.rows()` of the rows in `rows`.
    """
    title = "Training report: " + ", ".join(run.name for run in runs)
    sections = {
        "Results": _results(runs, rows, row_differences, facts),
        "Losses": _charts(charts["Losses"], "No losses: metrics.json holds evaluations alone."),
        "Average precision": _precision(runs, charts["Average precision"]),
        "Learning rate, speed and memory": _speed(runs, charts["Learning rate, speed and memory"]),
        "Sample predictions": "".join(_samples(run, *samples[run.name], runs) for run in runs),
        "Config": _configs(runs),
    }
    links = "".join(f'<a href="#s{i}">{escape(name)}</a>' for i, name in enumerate(sections))
    body = f"<header><h1>{escape(title)}</h1><nav>{links}</nav></header>\n" + "\n".join(
        f'<section id="s{i}"><h2>{escape(name)}</h2>\n{content}\n</section>'
        for i, (name, content) in enumerate(sections.items())
    )
    template = Template(resources.files(__package__).joinpath("page.html").read_text())
    return template.substitute(title=escape(title), body=body)


def _result_lines(runs: Sequence[Run], shown: Sequence[str]) -> list[tuple]:
    """Name, values by run, values by published row."""
    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    lines = [
        ("steps", [_steps(run) for run in runs], [""] * len(shown)),
        *(
            (
                f"{task_title(task)} {metric}",
                [_ap(run.final_ap(task, metric)) for run in runs],
                [
                    _ap(published_ap(row).get(task, math.nan)) if metric == "AP" else ""
                    for row in shown
                ],
            )
            for task in tasks or ("bbox",)
            for metric in _METRICS
        ),
        *(
            (
                f"best {task_title(task)} AP, at step",
                [_best(run, task) for run in runs],
                [""] * len(shown),
            )
            for task in tasks
        ),
    ]
    plain = (
        ("last total loss", lambda run: _number(run.final("total_loss"))),
        ("batch size", lambda run: str(run.batch_size or _ABSENT)),
        ("median s/step", lambda run: _number(run.typical("time"))),
        ("images/s", lambda run: _number(images_per_second(run))),
        ("share waiting for data", _waiting),
        ("peak GPU memory, MiB", _peak),
    )
    return lines + [(name, [show(run) for run in runs], [""] * len(shown)) for name, show in plain]


def _results(runs, rows, row_differences, facts) -> str:
    tiles = _tiles(runs[0], rows) if len(runs) == 1 else ""
    shown = list(dict.fromkeys(rows.values()))
    lines = _result_lines(runs, shown)
    of_row = {row: f": {row}" if len(shown) > 1 else "" for row in shown}
    head = ["", *(_named(run, runs) for run in runs)] + [
        f'<span class="published">published{escape(of_row[row])}</span>' for row in shown
    ]
    body = [
        [escape(name), *map(escape, ours), *map(escape, theirs)] for name, ours, theirs in lines
    ]
    notes = [_published_note(run, rows.get(run.name), row_differences, facts) for run in runs]
    notes += [
        f"{run.name}: {run.broken_lines} line(s) of metrics.json could not be read and were "
        "skipped, as a run that is killed in writing leaves one."
        for run in runs
        if run.broken_lines
    ]
    notes += [f"{run.name}: no evaluation was recorded." for run in runs if not run.evaluations]
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    other = "".join(
        _settings(
            f"{run.name}: {len(row_differences[run.name])} setting(s) other than the row's",
            [run.name, rows[run.name]],
            row_differences[run.name],
        )
        for run in runs
        if row_differences.get(run.name)
    )
    return f'{tiles}{_table(head, body, kind="results")}<ul class="soft">{listed}</ul>{other}'


def _tiles(run: Run, rows: dict[str, str]) -> str:
    published = published_ap(rows[run.name]) if run.name in rows else {}
    tiles = [
        (
            _ap(run.final_ap(task)),
            f"{task_title(task)} AP"
            + (f", published {published[task]:.1f}" if task in published else ""),
        )
        for task in run.tasks
    ]
    tiles += [
        (_steps(run), "steps"),
        (_number(run.final("total_loss")), "last total loss"),
        (_number(run.typical("time")), "median s/step"),
    ]
    cells = (
        f'<div class="tile"><b>{escape(v)}</b><span>{escape(n)}</span></div>' for v, n in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def _published_note(run, row, row_differences, facts) -> str:
    if row is None:
        return (
            f"{run.name}: its config is not that of a row with a published AP; --row NAME names "
            "one to compare it with."
        )
    count = len(row_differences.get(run.name, {}))
    text = (
        f"{run.name}: published AP of {row} is {SOURCES[facts[row]['source']]}'s, on COCO val2017. "
    )
    if count:
        return (
            text + f"This run differs from the row in {count} setting(s), so they may not compare."
        )
    return text + "This run's config has the row's settings."


def _precision(runs: Sequence[Run], charts) -> str:
    parts = [_charts(charts, "No evaluation with an AP was recorded.")]
    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    for run in runs:
        if len(run.evaluations) > 1:
            head = ["step", *(f"{escape(task_title(t))} {m}" for t in run.tasks for m in _METRICS)]
            body = [
                [
                    str(step),
                    *(_ap(found.get(t, {}).get(m, math.nan)) for t in run.tasks for m in _METRICS),
                ]
                for step, found in run.evaluations.items()
            ]
            parts.append(
                f"<details><summary>Every evaluation of {_named(run, runs)}</summary>"
                f"{_table(head, body)}</details>"
            )
    found = {(run.name, task): run.classes(task) for run in runs for task in tasks}
    columns = [(run, task) for run in runs for task in tasks if found[run.name, task]]
    if not columns:
        return "".join(parts) + '<p class="soft">No AP by class was recorded.</p>'
    first = found[columns[0][0].name, columns[0][1]]
    classes = dict.fromkeys(name for by_class in found.values() for name in by_class)
    order = sorted(classes, key=lambda name: -_or(first.get(name, math.nan), -1.0))
    head = ["class"] + [
        (f"{_named(run, runs)} " if len(runs) > 1 else "") + f"{escape(task_title(task))} AP"
        for run, task in columns
    ]
    body = [
        [escape(name), *(found[run.name, task].get(name, math.nan) for run, task in columns)]
        for name in order
    ]
    table = _table(head, body, bars=True)
    if len(order) > 12:
        table = f"<details open><summary>{len(order)} classes</summary>{table}</details>"
    return "".join(parts) + f"<h3>By class, in the last evaluation</h3>{table}"


def _speed(runs: Sequence[Run], charts) -> str:
    without = [run.name for run in runs if not run.memory]
    note = (
        f"No GPU memory was recorded in {', '.join(without)}: on a CPU there is none to measure "
        "(on a GPU, log.txt has it)."
        if without
        else ""
    )
    return _charts(charts, "Neither was recorded.") + f'<p class="soft">{escape(note)}</p>'


def _samples(run: Run, samples: list[Sample], note: str, runs) -> str:
    figures = "".join(
        '<figure class="sample"><div class="pair">'
        + "".join(
            f"<figure>{_image(data, 'jpeg', f'{sample.title} {caption}')}"
            f"<figcaption>{escape(caption)}</figcaption></figure>"
            for caption, data in sample.pictures.items()
        )
        + f"</div><figcaption>{escape(sample.title)}</figcaption></figure>"
        for sample in samples
    )
    return (
        f"<h3>{_named(run, runs)}</h3>" if len(runs) > 1 else ""
    ) + f'<p class="soft">{escape(note)}</p><div class="samples">{figures}</div>'


def _configs(runs: Sequence[Run]) -> str:
    parts = []
    with_config = [run for run in runs if run.config]
    if len(with_config) > 1:
        found = different([run.config for run in with_config])
        names = [run.name for run in with_config]
        parts.append(
            _settings(
                f"{len(found)} setting(s) in which the runs differ",
                names,
                found,
                opened=len(found) <= 20,
            )
            if found
            else '<p class="soft">The runs have the same settings.</p>'
        )
    for run in runs:
        if run.config_text:
            parts.append(
                f"<details><summary>config.yaml of {_named(run, runs)}</summary>"
                f"<pre>{escape(run.config_text)}</pre></details>"
            )
        else:
            parts.append(f'<p class="soft">{escape(run.name)} has no config.yaml.</p>')
    return "".join(parts)


def _settings(title: str, columns: list[str], values: dict[str, tuple], opened=False) -> str:
    body = [
        [escape(key), *("–" if value is None else escape(str(value)) for value in found)]
        for key, found in values.items()
    ]
    table = _table(["key", *map(escape, columns)], body, kind="settings")
    return f"<details{' open' * opened}><summary>{escape(title)}</summary>{table}</details>"


def _table(head: Sequence[str], body: Iterable[Sequence], *, bars=False, kind="") -> str:
    """A table of cells that are HTML already; of `bars`, numbers from 0 to 100 are drawn, too."""

    def cell(value):
        if not bars or isinstance(value, str):
            return f"<td>{value}</td>"
        share = min(max(_or(value, 0.0), 0.0), 100.0)
        return f'<td class="bar" style="--share:{share:.1f}%">{_ap(value)}</td>'

    lines = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(map(cell, rest))}</tr>' for first, *rest in body
    )
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    return (
        f'<div class="card"><table class="{kind}"><thead><tr>{titles}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _charts(charts: Sequence[tuple[str, bytes]], absent: str) -> str:
    if not charts:
        return f'<p class="soft">{escape(absent)}</p>'
    images = "".join(_image(data, "png", title) for title, data in charts)
    return f'<div class="charts">{images}</div>'


def _image(data: bytes, kind: str, alt: str) -> str:
    encoded = base64.b64encode(data).decode()
    return f'<img src="data:image/{kind};base64,{encoded}" alt="{escape(alt.strip())}">'


def _named(run: Run, runs: Sequence[Run]) -> str:
    """The name as HTML, with its colour in the charts if there are several."""
    if len(runs) == 1:
        return escape(run.name)
    colour = COLOURS[list(runs).index(run) % len(COLOURS)]
    return f'<span class="swatch" style="background:{colour}"></span>{escape(run.name)}'


def images_per_second(run: Run) -> float:
    """Of training, over all processes; NaN where the batch size or the time is not known."""
    seconds = run.typical("time")
    return run.batch_size / seconds if run.batch_size and seconds > 0 else math.nan


def _waiting(run: Run) -> str:
    share = run.typical("data_time") / _or(run.typical("time"), math.nan)
    return f"{share:.0%}" if math.isfinite(share) else _ABSENT


def _peak(run: Run) -> str:
    return f"{max(run.memory.values()):,.0f}" if run.memory else _ABSENT


def _best(run: Run, task: str) -> str:
    steps, values = run.ap_curve(task)
    found = [(value, step) for step, value in zip(steps, values) if math.isfinite(value)]
    if not found:
        return _ABSENT
    best = max(value for value, _ in found)
    return f"{best:.1f} at {next(step for value, step in found if value == best):,}"


def _steps(run: Run) -> str:
    total = next(
        (run.config[k] for k in ("train.max_iter", "SOLVER.MAX_ITER") if k in run.config), None
    )
    unfinished = type(total) is int and run.steps < total
    return f"{run.steps:,}" + (f" of {total:,}" if unfinished else "")


def _ap(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else _ABSENT


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else _ABSENT


def _or(value: float, other: float) -> float:
    return value if math.isfinite(value) else other
