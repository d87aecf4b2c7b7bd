"""Which published model a run is of, and in what its settings differ from the model's."""

import re
import tempfile
from pathlib import Path

from detectron2.config import LazyConfig
from detectron2.utils.registry import locate
from omegaconf import DictConfig

from d2_regnet import model_zoo
from d2_regnet.engine import load_config

from .runs import Run, flatten, parse_config

_SOURCES = {"mmdet": "MMDetection", "detectron2": "Detectron2"}
_BATCH = "dataloader.train.total_batch_size"
# What says where, how fast and how often, and changes nothing that is learnt.
_NEUTRAL = re.compile(
    r"train\.(output_dir|seed|log_period|eval_period|checkpointer\..*|device|cudnn_benchmark|ddp\..*"
    rf"|scale_to_batch_size|base_batch_size)|dataloader\.(train|test)\.num_workers|{_BATCH}"
)


def check_model(name: str) -> str:
    """The spelling of a model of the zoo; ValueError if it has no published AP."""
    model = model_zoo.canonical_name(name)
    if model_zoo.rows().get(model, {}).get("box_ap") is None:
        raise ValueError(f"{model}: no AP of it is published (MODEL_ZOO.md has those of all)")
    return model


def published_ap(model: str) -> dict[str, float]:
    """COCO AP on val2017 by task, 0 to 100."""
    facts = model_zoo.rows()[model]
    found = {"bbox": facts["box_ap"], "segm": facts["mask_ap"]}
    return {task: float(value) for task, value in found.items() if value is not None}


def source(model: str) -> str:
    """Who published the AP of a model."""
    return _SOURCES[model_zoo.rows()[model]["source"]]


def recognise(run: Run) -> str | None:
    """The published model of which the run has all the settings; None if there is none."""
    if "dataloader.train.dataset.names" not in run.config:
        return None
    arch = str(run.config.get("model.backbone.bottom_up.arch", "")).lower().replace("-", "_")
    for model, facts in model_zoo.rows().items():
        may_be = arch in model if arch else "regnet" not in model  # spares reading most configs
        if facts["box_ap"] is not None and may_be and not differences(run, model):
            return model
    return None


def differences(run: Run, model: str) -> dict[str, tuple]:
    """Settings in which a run differs from a model's config made for the run's batch size.

    Returns:
        By dotted key: the run's value and the config's; None if one has no such key.
    """
    scaled = [f"{_BATCH}={run.batch_size}"] if run.batch_size else []
    return different([run.config, _flat(load_config(model, scaled))], ignored=_NEUTRAL)


def different(configs: list[dict], ignored: re.Pattern = re.compile("train.output_dir")) -> dict:
    """By dotted key, each config's value, of those keys in which they are not all the same."""
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {key: tuple(config.get(key) for config in configs) for key in sorted(keys)}
    return {
        key: found
        for key, found in values.items()
        if not ignored.fullmatch(key) and not all(_same(key, each, found[0]) for each in found)
    }


def _same(key: str, first, second) -> bool:
    """Also of a class or function that is called by two addresses, such as `d2_regnet.data.X`."""
    if first == second or not key.endswith("_target_"):
        return first == second
    if not all(str(name).startswith("d2_regnet.") for name in (first, second)):
        return False
    try:
        return locate(first) is locate(second)
    except Exception:  # what Detectron2 raises of a name that is not there
        return False


def _flat(cfg: DictConfig) -> dict[str, object]:
    """A config as it would stand in a run's config.yaml."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        LazyConfig.save(cfg, str(file))
        return flatten(parse_config(file.read_text()))
