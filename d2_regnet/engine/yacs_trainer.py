"""Detectron2's DefaultTrainer with what the recipes need beyond it."""

import os
from collections.abc import Sequence

import detectron2.data.transforms as T
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator

from d2_regnet import model_zoo
from d2_regnet.config import add_regnet_config
from d2_regnet.optimize import yacs_options
from d2_regnet.solver import clip_gradients


class YacsTrainer(DefaultTrainer):
    """Trains the YAML form of a recipe.

    `DefaultTrainer`, and `SOLVER.CLIP_GRADIENTS.FULL_MODEL`, `INPUT.LSJ` (see
    `config.add_regnet_config`), and COCO's evaluator for the data sets of `DATASETS.TEST`.
    """

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """DefaultTrainer's optimizer, clipping all gradients together where the config says so."""
        clip = cfg.SOLVER.CLIP_GRADIENTS
        if not (clip.ENABLED and clip.FULL_MODEL):
            return super().build_optimizer(cfg, model)
        if clip.CLIP_TYPE != "norm":
            raise ValueError(
                f"SOLVER.CLIP_GRADIENTS.FULL_MODEL needs CLIP_TYPE norm, not {clip.CLIP_TYPE!r}"
            )
        without = cfg.clone()
        without.defrost()
        without.SOLVER.CLIP_GRADIENTS.ENABLED = False
        optimizer = super().build_optimizer(without, model)
        clip_gradients(optimizer, clip.CLIP_VALUE, clip.NORM_TYPE)
        return optimizer

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        """DefaultTrainer's loader, with large-scale jitter where the config says so."""
        return build_detection_train_loader(cfg, mapper=train_mapper(cfg))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """COCO AP of boxes, and of masks where there are any."""
        return COCOEvaluator(dataset_name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"))


def find_yaml(path_or_name: str) -> str:
    """The path of a YAML config given by its path, or by a row's name with .yaml behind it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a name that is no row's; lists the nearest.
    """
    if os.path.isfile(path_or_name):
        return path_or_name
    if os.path.dirname(path_or_name) or not path_or_name.endswith(".yaml"):
        raise FileNotFoundError(f"config file {path_or_name!r} does not exist; give a YAML file")
    return model_zoo.get_config_file(path_or_name)


def load_yaml(path: str, overrides: Sequence[str] = ()) -> CfgNode:
    """Reads a YAML config on top of Detectron2's defaults and `add_regnet_config`; frozen.

    Args:
        path: a file.
        overrides: KEY VALUE KEY VALUE ..., as Detectron2 takes them.

    Raises:
        ValueError: an unknown key, or a value of the wrong kind.
    """
    cfg = get_cfg()
    add_regnet_config(cfg)
    try:
        cfg.merge_from_file(path)
        cfg.merge_from_list(list(overrides))
    except (KeyError, AssertionError, ValueError) as error:
        raise ValueError(f"{path}: {error.args[0] if error.args else error}") from error
    yacs_options(cfg)
    cfg.freeze()
    return cfg


def train_mapper(cfg: CfgNode) -> DatasetMapper:
    """The mapper of training pictures: Detectron2's own for the config, or with `INPUT.LSJ`."""
    lsj = cfg.INPUT.LSJ
    if not lsj.ENABLED:
        return DatasetMapper(cfg, is_train=True)
    augmentations = [
        T.ResizeScale(lsj.MIN_SCALE, lsj.MAX_SCALE, lsj.SIZE, lsj.SIZE),
        T.FixedSizeCrop((lsj.SIZE, lsj.SIZE)),
    ]
    if cfg.INPUT.RANDOM_FLIP != "none":
        flips = {cfg.INPUT.RANDOM_FLIP: True}
        augmentations.append(T.RandomFlip(**{"horizontal": False, **flips}))
    return DatasetMapper(
        cfg, is_train=True, augmentations=augmentations, recompute_boxes=cfg.MODEL.MASK_ON
    )
