"""Reads what a training run left in its folder: metrics.json, config.yaml, log.txt."""

import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

VALIDATION = "validation/"  # in front of the losses on the test data
# "bbox/AP", "segm/AP50", "bbox/AP-person"; several test sets put their name in front.
_AP = re.compile(r"(?P<task>.+?)/AP(?P<metric>|50|75|s|m|l|-.+)", re.DOTALL)
_MEMORY = re.compile(r"\biter: (\d+)\b.*\bmax_mem: (\d+)M")
_TASKS = {"bbox": "Box", "segm": "Mask", "keypoints": "Keypoint"}


@dataclass
class Run:
    """One run. Steps count from 1, after which so many steps are done.

    Attributes:
        training: step -> name -> value: losses, lr, time (s), data_time (s), ...; by step.
        evaluations: step -> task ("bbox", "segm") -> metric ("AP", "AP50", "AP-person") -> value,
            0 to 100, NaN if it is undefined; by step.
        memory: step -> the most memory (MiB) allocated on the GPU until then; empty on a CPU.
        config: by dotted key, what `config_text` holds; both are empty if there is none.
    """

    name: str
    folder: Path
    training: dict[int, dict[str, float]]
    evaluations: dict[int, dict[str, dict[str, float]]]
    memory: dict[int, float] = field(default_factory=dict)
    config_text: str = ""
    config: dict[str, object] = field(default_factory=dict)
    broken_lines: int = 0  # of metrics.json

    @property
    def steps(self) -> int:
        return max([*self.training, *self.evaluations])

    @property
    def planned_steps(self) -> int:
        """How many the config asks for; 0 if it does not say."""
        return _whole_number(self.config, "train.max_iter", "SOLVER.MAX_ITER")

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for found in self.evaluations.values() for task in found))

    @property
    def losses(self) -> list[str]:
        """The names of the training's losses, the total first; `VALIDATION` + name: on the test
        data."""
        names = dict.fromkeys(name for each in self.training.values() for name in each)
        found = (name for name in names if "loss" in name and not name.startswith(VALIDATION))
        return sorted(found, key=lambda name: name != "total_loss")

    @property
    def batch_size(self) -> int:
        """Images a step, over all processes; 0 if the config does not say."""
        batch = "dataloader.train.total_batch_size", "SOLVER.IMS_PER_BATCH"
        several = _whole_number(self.config, "train.accumulate", "SOLVER.ACCUMULATE") or 1
        return several * _whole_number(self.config, *batch)

    @property
    def images_per_second(self) -> float:
        """Of training, over all processes; NaN if the batch size or the time is not known."""
        return (self.batch_size or math.nan) / (self.typical("time") or math.nan)

    @property
    def share_waiting(self) -> float:
        """Of a step's time, what is spent waiting for data; NaN if that is not known."""
        return self.typical("data_time") / (self.typical("time") or math.nan)

    @property
    def peak_memory(self) -> float:
        """MiB; NaN on a CPU."""
        return max(self.memory.values(), default=math.nan)

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a training metric."""
        return _points((step, each[name]) for step, each in self.training.items() if name in each)

    def ap_curve(self, task: str, metric: str = "AP") -> tuple[list[int], list[float]]:
        """Steps and values of an evaluation's metric."""
        return _points(
            (step, found[task][metric])
            for step, found in self.evaluations.items()
            if metric in found.get(task, {})
        )

    def final(self, name: str) -> float:
        """The last value of a training metric; NaN if there is none."""
        return ([math.nan] + self.curve(name)[1])[-1]

    def final_ap(self, task: str, metric: str = "AP") -> float:
        """The last evaluation's value, 0 to 100; NaN if there is none."""
        return ([math.nan] + self.ap_curve(task, metric)[1])[-1]

    def best_ap(self, task: str) -> tuple[float, int]:
        """The highest AP, and the first step that has it; NaN and 0 if there is none."""
        steps, values = self.ap_curve(task)
        found = [each for each in zip(values, steps) if math.isfinite(each[0])]
        return max(found, key=lambda each: each[0], default=(math.nan, 0))

    def classes(self, task: str) -> dict[str, float]:
        """AP by class, of the last evaluation that has them."""
        for found in reversed(self.evaluations.values()):
            metrics = found.get(task, {}).items()
            if by_class := {name[3:]: value for name, value in metrics if name.startswith("AP-")}:
                return by_class
        return {}

    def typical(self, name: str) -> float:
        """The median of a training metric; NaN if there is none."""
        values = [value for value in self.curve(name)[1] if math.isfinite(value)]
        return statistics.median(values) if values else math.nan


def _whole_number(config: dict[str, object], *keys: str) -> int:
    """The first of the settings that is one; 0 if none is."""
    return next((config[key] for key in keys if type(config.get(key)) is int), 0)


def task_title(task: str) -> str:
    """ "Box" of "bbox", "coco_2017_val: Mask" of "coco_2017_val/segm"."""
    dataset, _, last = task.rpartition("/")
    return (f"{dataset}: " if dataset else "") + _TASKS.get(last, last)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads the runs in several `folders`; those of equal folder names are called by their paths.

    Raises:
        FileNotFoundError: there is no such folder, or no metrics.json in it.
        ValueError: no line of a metrics.json can be read, or a folder is named twice.
    """
    resolved = [folder.resolve() for folder in folders]
    for index, folder in enumerate(resolved):
        if folder in resolved[:index]:
            raise ValueError(f"{folders[index]} is named twice")
    names = [folder.name for folder in resolved]
    unique = len(set(names)) == len(names)
    return [
        _read_run(folder, name if unique else str(folder)) for folder, name in zip(folders, names)
    ]


def _read_run(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    file = folder / "metrics.json"
    if not file.is_file():
        remedy = "name the folder that a training wrote to (train.output_dir)"
        raise FileNotFoundError(f"{folder} has no metrics.json: {remedy}")
    text = _text(folder / "config.yaml")
    config = flatten(parse_config(text))
    period = _whole_number(config, "train.eval_period", "TEST.EVAL_PERIOD")
    training, evaluations, broken = parse_metrics(_text(file).split("\n"), period)
    if not training and not evaluations:
        raise ValueError(f"{file}: no line holds the metrics of a step ({broken} broken lines)")
    # Detectron2 writes the memory into its log alone.
    found = (_MEMORY.search(line) for line in _text(folder / "log.txt").splitlines())
    memory = {int(match[1]) + 1: float(match[2]) for match in found if match}
    run = Run(name, folder, training, evaluations, memory, text, config, broken)
    run.memory = dict(sorted({**memory, **dict(zip(*run.curve("max_mem")))}.items()))
    return run


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.is_file() else ""


def parse_metrics(lines: Iterable[str], eval_period: int = 0) -> tuple[dict, dict, int]:
    """Detectron2's metrics.json: what was measured after each step, as `Run` has it.

    A run that was killed repeats steps when it goes on; what it had written of them is dropped.

    The evaluation after the last step is written with the number of the step after it, which a
    resumed run has, too. It is told by its place: right after the step, and by no period due.

    Args:
        lines: each a JSON object with `iteration` (from 0) and numbers; empty ones are skipped.
        eval_period: steps between evaluations; 0: only the last one is evaluated.

    Returns:
        training, evaluations, and the number of lines that are no such thing.
    """
    training, evaluations, losses, broken, reached = {}, {}, {}, 0, 0
    for line in filter(str.strip, lines):
        try:
            values = json.loads(line)
            iteration = values.pop("iteration")
            if type(iteration) is not int or iteration < 0:
                raise TypeError(f"no number of a step: {iteration}")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            broken += 1
            continue
        step = evaluated = iteration + 1
        if "total_loss" in values:  # the metric of every step, by which a step back is known
            for part in (training, evaluations, losses) if step <= reached else ():
                for later in [each for each in part if each >= step]:
                    del part[later]
            reached = step
        elif step == reached + 1 > 1 and not (eval_period and step % eval_period == 0):
            evaluated = reached
        for name, value in values.items():
            if type(value) not in (int, float):
                continue
            if match := _AP.fullmatch(name):
                found = evaluations.setdefault(evaluated, {}).setdefault(match["task"], {})
                found[f"AP{match['metric']}"] = float(value)
            else:
                of = (losses, evaluated) if name.startswith(VALIDATION) else (training, step)
                of[0].setdefault(of[1], {})[name] = float(value)
    last = max(training, default=math.inf)
    clamped = {}
    for step, found in sorted(evaluations.items()):
        clamped.setdefault(min(step, last), {}).update(found)
    for step, found in sorted(losses.items()):
        training.setdefault(min(step, last), {}).update(found)
    return dict(sorted(training.items())), clamped, broken


def _points(pairs: Iterable[tuple[int, float]]) -> tuple[list[int], list[float]]:
    pairs = list(pairs)
    return [step for step, _ in pairs], [value for _, value in pairs]


class _Loader(yaml.SafeLoader):
    """Reads a config without running code from it: an object becomes its fields."""


def _as_plain(loader, suffix, node):
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return suffix.rpartition(":")[2] or loader.construct_scalar(node)


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", _as_plain)


def parse_config(text: str) -> dict:
    """A config.yaml, Detectron2's of either kind; empty if it cannot be read."""
    try:
        config = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def flatten(value, prefix: str = "") -> dict[str, object]:
    """Dotted keys and values; lists of plain values stay whole."""
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, (list, tuple)) and any(isinstance(each, (dict, list)) for each in value):
        children = enumerate(value)
    else:
        return {prefix: value} if prefix else {}
    flat = {}
    for key, child in children:
        flat |= flatten(child, f"{prefix}.{key}" if prefix else str(key))
    return flat
