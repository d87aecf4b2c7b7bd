"""Whether what is computed for every class fits into memory, before it turns out not to."""

import os

import torch
from omegaconf import DictConfig, OmegaConf

__all__ = ["check_memory", "class_output_bytes"]

_FLOAT = 4
_COPIES = 2  # the values and their gradients; losses take more
_FITS = 4 * 2**30  # asking a GPU for its size would start CUDA in the launcher


def class_output_bytes(cfg: DictConfig, processes: int = 1) -> int:
    """The least that per-class outputs of one training step take, in bytes, in one process.

    Masks of Mask R-CNN: (boxes drawn for the loss) x classes x 28 x 28; scores of RetinaNet:
    (anchors, on strides 8 to 128, of a 4:3 image of the largest short edge) x classes. Other
    models count as 0. Neither matters with 80 classes; both do with 10,000.
    """

    def get(key, default=0):
        return OmegaConf.select(cfg, key, default=default)

    pictures = max(1, get("dataloader.train.total_batch_size", 1) // processes)
    heads = get("model.roi_heads", {})
    if heads.get("mask_head"):
        classes = heads.mask_head.get("num_classes", 0)
        pooler = heads.get("mask_pooler") or {}
        boxes = heads.get("batch_size_per_image", 512) * heads.get("positive_fraction", 0.25)
        outputs = boxes * classes * (2 * pooler.get("output_size", 14)) ** 2
    elif "anchor_generator" in get("model", {}) and "num_classes" in cfg.model:
        resize = get("dataloader.train.mapper.augmentations.0.short_edge_length", 800)
        short = resize if isinstance(resize, int) else max(resize)
        positions = short * short * 4 / 3 * sum(1 / stride**2 for stride in (8, 16, 32, 64, 128))
        outputs = positions * get("model.head.num_anchors", 9) * cfg.model.num_classes
    else:
        return 0
    return int(pictures * outputs * _FLOAT * _COPIES)


def check_memory(cfg: DictConfig, device: str, processes: int = 1) -> None:
    """Refuses a model whose per-class outputs alone cannot fit.

    Args:
        device: a torch device; `cuda` without a GPU counts as the CPU.

    Raises:
        ValueError: naming both sizes and what to do.
    """
    needed = class_output_bytes(cfg, processes)
    if needed < _FITS:
        return
    if device.startswith("cuda") and torch.cuda.is_available():
        there, what = torch.cuda.get_device_properties(device).total_memory, "the GPU"
    else:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        what = "this machine"
    if needed > there:
        if OmegaConf.select(cfg, "model.roi_heads.mask_head") is not None:
            remedy = "predict one mask for all with model.roi_heads.mask_head.num_classes=1"
        else:
            remedy = "train a faster_rcnn, which scores boxes rather than anchors"
        raise ValueError(
            f"so many classes need at least {needed / 2**30:.0f} GiB for the outputs of a step, "
            f"and {what} has {there / 2**30:.0f}: {remedy}, or lower "
            "dataloader.train.total_batch_size"
        )
