"""The losses of a model on the images that it is evaluated on."""

import copy
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import build_detection_test_loader
from detectron2.data.detection_utils import build_augmentation
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import nn

from d2_regnet.data.loader import outlasting_signals
from d2_regnet.data.mapper import RobustMapper
from d2_regnet.modeling.global_batch import Exchange, global_batch

from .trainer import restore, running_normalizer, scripted_alike

__all__ = ["loss_loaders", "validation_losses"]

# What a mapper makes of annotations.
_TARGETS = ("use_instance_mask", "instance_mask_format", "use_keypoint", "recompute_boxes")
_RANDOM_OR_LEARNING = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.Dropout, nn.Dropout2d),
)


def loss_loaders(cfg: DictConfig | CfgNode) -> list[Iterable]:
    """A config's test loaders, whose images have their objects as in training."""
    if isinstance(cfg, CfgNode):
        mapper = RobustMapper(cfg, is_train=True, augmentations=build_augmentation(cfg, False))
        names = cfg.DATASETS.TEST
        return [build_detection_test_loader(cfg, name, mapper=mapper) for name in names]
    node, trained = copy.deepcopy(cfg.dataloader.test), cfg.dataloader.train.mapper
    node.mapper.update(is_train=True, **{k: trained[k] for k in _TARGETS if k in trained})
    return [instantiate(node)]


def validation_losses(
    cfg: DictConfig | CfgNode,
    model: nn.Module,
    *,
    before_inference: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """The mean over images of each loss, and of their sum, `total_loss`.

    Nothing is learnt: gradients, batch statistics and dropout are off. An image draws the same
    random numbers each time. To be called by all processes, each of which gets the means.

    Args:
        cfg: whose test data it is.
        model: not wrapped for distributed training; its modes are as before at the end.
        before_inference: called before each batch.
    """
    sums, device = Counter(), next(model.parameters()).device.type
    with _learning_nothing(model), torch.no_grad(), EventStorage(), scripted_alike(device):
        for loader in loss_loaders(cfg):
            with outlasting_signals(loader) as batches:
                for batch in batches:
                    before_inference()
                    seed = zlib.crc32(str(batch[0].get("file_name")).encode())
                    alone = global_batch(model, 0, seed, len(batch), Exchange(0, 1))
                    with torch.random.fork_rng(), alone:
                        torch.manual_seed(seed)
                        losses = model(batch)
                    sums.update({name: loss.item() for name, loss in losses.items()})
                    sums["images"] += 1
    everywhere = comm.all_gather(dict(sums))
    images = sum(each.get("images", 0) for each in everywhere)
    names = dict.fromkeys(name for each in everywhere for name in each if name != "images")
    means = {name: sum(each.get(name, 0) for each in everywhere) / images for name in names}
    return means | {"total_loss": sum(means.values())}


@contextmanager
def _learning_nothing(model: nn.Module) -> Iterator[None]:
    """A model that computes its losses inside."""
    modes = {module: module.training for module in model.modules()}
    normalizer = running_normalizer(model)
    model.train()
    for module in modes:
        if isinstance(module, _RANDOM_OR_LEARNING):
            module.eval()
    try:
        yield
    finally:
        restore(model, {}, normalizer)
        for module, mode in modes.items():
            module.training = mode
