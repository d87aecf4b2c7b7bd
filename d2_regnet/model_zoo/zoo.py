"""The published models by name, as `detectron2.model_zoo` gives Detectron2's own.

A model is called `{detector}_{arch}_fpn_{schedule}`, its arch as published but in lower case:
`mask_rcnn_regnetx_3.2gf_fpn_1x`. With `.yaml` behind the name it is the yacs form that is meant.
Any other published arch, and 1x, 2x and 3x of any detector, are composed if a name asks for them
(`retinanet_regnety_1.6gf_fpn_3x`), without a file, and so is a RegNet of your own, if the YAML file
of its parameters stands in place of the arch (`mask_rcnn_nets/mine.yaml_fpn_1x`). Case, `-` for
`_`, the spelling of the arch (`4gf`), and MMDetection's or Detectron2's name are all understood.
"""

import functools
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from omegaconf import DictConfig

from d2_regnet.archs import arch_name, suggest
from d2_regnet.checkpoint.loading import SafeCheckpointer
from d2_regnet.config import add_regnet_config

from .recipes import DETECTORS, LSJ_EPOCHS, RESNETS, SCHEDULES, detectron2_1x, recipe

_ARCH = re.compile(r"regnet_?[xy]_?\d+(?:[._]\d+)?_?[mg]f")
_NAME = (
    rf"(?P<detector>{'|'.join(DETECTORS)})_(?P<arch>%s)(?P<variant>_dcn|_dds)?"
    rf"_fpn_(?P<schedule>{'|'.join([*SCHEDULES, *LSJ_EPOCHS])})"
)
_COMPOSED = re.compile(_NAME % rf"{_ARCH.pattern}|{'|'.join(RESNETS)}")
_OWN = re.compile(rf"(?P<name>{_NAME % r'.+[.]ya?ml'})(?:[.]py|[.]yaml)?")


@functools.cache
def rows() -> dict[str, dict]:
    """What is published about each model, by its name: the rows of MODEL_ZOO.

    `source` is mmdet or detectron2, `config` the model's name there, `url` its weights, `box_ap`
    and `mask_ap` COCO AP on val2017 (0 to 100), `mem_gb` the memory of training (GB a GPU); None if
    nothing is published. `params` and `flops` (multiply-adds) were counted by
    `python docs/generate_model_zoo.py`.
    """
    return json.loads(resources.files("d2_regnet.model_zoo").joinpath("zoo.json").read_text())


def list() -> Sequence[str]:
    """The names of the models that have a config file, each in a Python and a YAML form."""
    return [*rows()]


def canonical_name(name: str) -> str:
    """The one spelling of a model's `name`; a suffix .py or .yaml is dropped.

    Raises:
        ValueError: there is no such model, and none can be composed; lists the nearest.
    """
    if own := _OWN.fullmatch(name):
        return own["name"]
    try:
        spelled = _spell(name)
    except ValueError as error:
        raise ValueError(f"unknown model {name!r}: {error}") from error
    if spelled in rows() or _COMPOSED.fullmatch(spelled):
        return spelled
    for model, facts in rows().items():
        if spelled == _spell(facts["config"].rpartition("/")[2]):
            return model
    raise ValueError(f"unknown model {name!r}: {_nearest(spelled, rows())}")


def has_own_arch(name: str) -> bool:
    """Whether a `name` is composed around the YAML file of a RegNet that is not published."""
    return _OWN.fullmatch(name) is not None


def get_config_file(name: str) -> str:
    """The path of a model's config: LazyConfig, or YAML for a `name` that ends in .yaml.

    Raises:
        ValueError: an unknown name, or one that is composed and has no file.
    """
    model = canonical_name(name)
    if model not in rows():
        raise ValueError(f"{model} has no file, it is composed: use get_config({name!r})")
    file = Path("yaml", f"{model}.yaml") if name.endswith(".yaml") else Path(f"{model}.py")
    # Inside the package once installed, beside it in a checkout.
    package = Path(__file__).parents[1]
    folders = [package / "configs", package.parent / "configs"]
    for folder in folders:
        if (folder / file).is_file():
            return str(folder / file)
    raise FileNotFoundError(f"{file} is in neither {folders[0]} nor {folders[1]}: install again")


def get_config(name: str, trained: bool = False) -> DictConfig | CfgNode:
    """A complete config: a LazyConfig, or a yacs config for a name that ends in .yaml.

    Args:
        name: a model's, or one to be composed, of a published arch or of a YAML file.
        trained: start from the published weights of the model instead of its backbone's.

    Raises:
        ValueError: an unknown name, no published weights, or a YAML file that holds no RegNet.
        FileNotFoundError: there is no such YAML file.
    """
    model, as_yaml = canonical_name(name), name.endswith(".yaml")
    if model not in rows():
        cfg = _compose(model)
        if as_yaml:
            from .yacs import to_yacs

            cfg = to_yacs(cfg)
    elif as_yaml:
        cfg = get_cfg()
        add_regnet_config(cfg)
        cfg.merge_from_file(get_config_file(name))
    else:
        cfg = LazyConfig.load(get_config_file(name))
    if trained and as_yaml:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(name)
    elif trained:
        cfg.train.init_checkpoint = get_checkpoint_url(name)
    return cfg


def get_checkpoint_url(name: str) -> str:
    """The address of a model's published weights, for anything in Detectron2 that takes a path.

    `regnet://mmdet/...` is downloaded and converted on first use (see `checkpoint.catalog`).

    Raises:
        ValueError: an unknown `name`, or a model without published weights.
    """
    model = canonical_name(name)
    facts = rows().get(model, {})
    if not facts.get("url"):
        with_weights = [each for each in rows() if rows()[each]["url"]]
        raise ValueError(f"no weights of {model} are published: {_nearest(model, with_weights)}")
    return f"regnet://{facts['source']}/{model}"


def get(name: str, trained: bool = False, device: str | None = None) -> torch.nn.Module:
    """A model in training mode, its weights loaded; the arguments of `get_config`.

    Args:
        name: as in `get_config`.
        trained: load the detector's published weights; else the backbone's alone.
        device: where to put it; by default the config's own, or the CPU if there is no GPU.

    Raises:
        ValueError: an unknown name, or no published weights.
    """
    cfg = get_config(name, trained)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    if isinstance(cfg, CfgNode):
        cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
        model, weights = build_model(cfg), cfg.MODEL.WEIGHTS
    else:
        model, weights = instantiate(cfg.model), cfg.train.init_checkpoint
        model = model.to(device or cfg.train.device)
    SafeCheckpointer(model).load(weights)
    return model


def _spell(name: str) -> str:
    name = name.lower().removesuffix(".py").removesuffix(".yaml").replace("-", "_")
    return _ARCH.sub(lambda found: arch_name(found[0]).lower().replace("-", "_"), name)


def _nearest(name, known) -> str:
    hint = suggest(name, known)
    return hint if hint.startswith("the nearest") else "d2_regnet.model_zoo.list() has all"


def _compose(name: str) -> DictConfig:
    match = _OWN.fullmatch(name) or _COMPOSED.fullmatch(name)
    if match is None:
        raise ValueError(f"unknown model {name!r}: {_nearest(name, rows())}")
    detector, arch, variant, schedule = match.group("detector", "arch", "variant", "schedule")
    if variant == "_dds":
        if (detector, schedule) != ("mask_rcnn", "1x"):
            raise ValueError(f"{name}: Detectron2's own recipe is Mask R-CNN at 1x")
        return detectron2_1x(arch)
    options = {}
    if variant == "_dcn":
        options["deform_stages"] = ["s2", "s3", "s4"]
    # As every published model of these kinds.
    if arch not in RESNETS and (
        (detector == "retinanet" and schedule in SCHEDULES)
        or (detector, schedule) == ("mask_rcnn", "3x")
    ):
        options["clip_grad"] = 35.0
    return recipe(detector, arch, schedule, **options)
