"""From what a user calls a model to its config and its weights."""

import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.modeling.meta_arch import GeneralizedRCNN, RetinaNet
from omegaconf import DictConfig

from d2_regnet.checkpoint.fitting import same_names
from d2_regnet.data.before_training import dataset_names
from d2_regnet.data.checks import read_coco
from d2_regnet.data.shapes import register_named_shapes
from d2_regnet.model_zoo.loading import load_any, trained_weights
from d2_regnet.model_zoo.settings import setting


def find_model(
    model: str, weights: str | None = None, *, backbone: bool = False
) -> tuple[DictConfig | CfgNode, str]:
    """A model's config, and the weights of a trained detector.

    Args:
        model: a name that the zoo has or composes; a LazyConfig (`.py`, or the config.yaml of a
            run); a yacs config (`.yaml`); or a run's folder.
        weights: a file, or an address that Detectron2 takes; default: a model's published ones, a
            run's best or else newest checkpoint, or a yacs config's MODEL.WEIGHTS.
        backbone: where no trained detector is known, take what the config's training begins with.

    Raises:
        FileNotFoundError: there is no such config or checkpoint.
        ValueError: no such model, a broken config, or no weights are known.
    """
    cfg = load_any(model)
    if isinstance(cfg, CfgNode):
        cfg.defrost()  # as all configs that are made from Detectron2's `get_cfg()`
    if weights is None:
        yacs = isinstance(cfg, CfgNode)
        start = setting(cfg, "weights") if yacs or backbone else ""
        try:
            weights = trained_weights(model) or start
        except ValueError as error:
            if yacs or not start:
                raise ValueError(f"{error}; or give a checkpoint of it with --weights") from error
            weights = start
    if not weights:
        raise ValueError(f"{model} names no trained weights: give them with --weights")
    if "://" not in weights and not os.path.isfile(weights.split("?")[0]):
        raise FileNotFoundError(f"weights {weights}: there is no such file")
    return cfg, weights


def number_of_classes(model: GeneralizedRCNN | RetinaNet) -> int:
    """Classes of objects that a built detector knows."""
    return model.roi_heads.num_classes if hasattr(model, "roi_heads") else model.num_classes


def _known(name: str) -> Metadata:
    """A registered data set's metadata; its classes from its file where nobody has loaded it."""
    known = MetadataCatalog.get(name)
    path = known.get("json_file")
    if known.get("thing_classes") or not path or not os.path.isfile(path):
        return known
    categories = sorted(read_coco(path)["categories"], key=lambda each: each["id"])
    return Metadata(
        thing_classes=[each["name"] for each in categories],
        thing_dataset_id_to_contiguous_id={each["id"]: i for i, each in enumerate(categories)},
    )


def _ids_by_name(known: Metadata, names: Sequence[str]) -> Metadata:
    """The category ids of a data set for its classes in another order; nothing for other ones."""
    ids = known.get("thing_dataset_id_to_contiguous_id")
    ids = ids or {i + 1: i for i in range(len(names))}
    if sorted(known.get("thing_classes") or []) != sorted(names):
        return Metadata()
    places = {number: names.index(known.thing_classes[i]) for number, i in ids.items()}
    return Metadata(thing_dataset_id_to_contiguous_id=places)


def dataset_metadata(
    cfg: DictConfig | CfgNode, classes: int, names: Sequence[str] = ()
) -> Metadata:
    """The class names, colours and category ids of the data set that a config is evaluated on.

    Args:
        cfg: a LazyConfig or a yacs config.
        classes: how many the model has.
        names: of the classes of its weights (`Fit.classes`), which decide where they are as many.

    Returns:
        `thing_classes`, `thing_dataset_id_to_contiguous_id` and maybe `thing_colors`. Where neither
        the weights name the classes nor a registered data set of as many, they are called "class 1"
        and so on. Category ids count from 1 where the data set does not say.
    """
    name = next(iter(dataset_names(cfg)["test"]), "")
    register_named_shapes(name)
    known = _known(name) if name in DatasetCatalog else Metadata()
    found = list(known.get("thing_classes") or [])
    if len(found) != classes:
        found = [f"class {i}" for i in range(1, classes + 1)]
        known = Metadata()
    if len(names) == classes and not same_names(names, found):
        found, known = list(names), _ids_by_name(known, names)
    ids = known.get("thing_dataset_id_to_contiguous_id") or {i + 1: i for i in range(classes)}
    result = Metadata(thing_classes=found, thing_dataset_id_to_contiguous_id=dict(ids))
    if known.get("thing_colors"):
        result.thing_colors = list(known.thing_colors)
    return result
