"""What all recipes are made of: a backbone with its weights, COCO's loaders, SGD, `train`."""

import dataclasses
from typing import Any

import detectron2.data.transforms as T
import torch
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.solver.build import get_default_optimizer_params
from omegaconf import DictConfig, OmegaConf

from d2_regnet.archs import arch_name, get_arch, is_arch_file, suggest
from d2_regnet.data.loader import build_train_loader
from d2_regnet.data.mapper import RobustMapper
from d2_regnet.evaluation import FastCOCOEvaluator
from d2_regnet.utils.imagenet import pixel_statistics

from . import detectors

# How the short edge of a training image is drawn, in pixels; the long edge is at most 1333.
RESIZES = {
    "fixed": ("choice", (800,)),
    "range": ("range", (640, 800)),
    "choice": ("choice", (640, 672, 704, 736, 768, 800)),
}

# The baselines' backbones: arguments of detectors.resnet, and ImageNet weights.
RESNETS: dict[str, tuple[dict, str]] = {
    "r50": ({"depth": 50}, "regnet://torchvision/resnet50.IMAGENET1K_V1"),
    "r101": ({"depth": 101}, "regnet://torchvision/resnet101.IMAGENET1K_V1"),
    "x101_32x4d": (
        {"depth": 101, "num_groups": 32, "width_per_group": 4},
        "regnet://mmdet/resnext101_32x4d",
    ),
}

# Detectron2's `common/train.py`, and below it what this engine adds to it.
TRAIN_DEFAULTS: dict[str, Any] = dict(
    output_dir="./output",
    init_checkpoint="",
    max_iter=90000,
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=5000, max_to_keep=100),
    eval_period=5000,
    log_period=20,
    device="cuda",
    seed=-1,  # below 0: another one each time
    cudnn_benchmark=False,
    amp=dict(enabled=False, precision=None),  # float16 or bfloat16; None: as the device does best
    clip_grad=None,  # dict(max_norm=..., norm_type=...)
    # Steps in a row to leave out (0: stop at the first), batches to save for `d2-regnet replay`.
    non_finite=dict(skip=0, save=3),
    # Evaluate what d2_regnet.optimize_for_inference makes of the model.
    optimize_for_inference=dict(enabled=False, dtype="float32", compile=False),
    keep_best=dict(metric=None, mode="max"),  # such as bbox/AP; of validation losses, mode="min"
    early_stopping=dict(patience=0, min_delta=0.0),  # in evaluations; 0: never
    ema=dict(enabled=False, decay=0.9998),
    accumulate=1,  # batches a step
    validation_loss=False,
    loggers=["tensorboard"],  # and wandb, mlflow
)

# What Detectron2's RegNets use in place of its [1, 1, 1]: the weights' own.
PYCLS_STD = [*pixel_statistics("BGR")[1]]


def is_resnet(arch) -> bool:
    return isinstance(arch, str) and arch.lower().replace("-", "_") in RESNETS


def backbone(arch, deform_stages):
    """A lazy backbone, the address of its ImageNet weights ("" for none), and their format."""
    if is_resnet(arch):
        if deform_stages:
            raise ValueError("deform_stages is for RegNets; the baselines have none")
        arguments, weights = RESNETS[arch.lower().replace("-", "_")]
        return detectors.resnet(**arguments), weights, "RGB"
    if isinstance(arch, str) and not is_arch_file(arch):
        name = arch_name(arch)
        return detectors.regnet(name, deform_stages=deform_stages), f"regnet://pycls/{name}", "BGR"
    own = dataclasses.asdict(get_arch(arch))
    return detectors.regnet(own, norm="BN", freeze_at=0, deform_stages=deform_stages), "", "BGR"


def coco(augmentations, input_format, mask_format) -> DictConfig:
    """Loaders of COCO train2017 and val2017, and the evaluator."""
    train_mapper = L(RobustMapper)(
        is_train=True,
        augmentations=augmentations,
        image_format=input_format,
        use_instance_mask=mask_format is not None,
        instance_mask_format=mask_format or "polygon",
    )
    test_mapper = L(RobustMapper)(
        is_train=False,
        augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
        image_format="${...train.mapper.image_format}",
    )
    return OmegaConf.create(
        dict(
            train=L(build_train_loader)(
                dataset=L(get_detection_dataset_dicts)(names="coco_2017_train", filter_empty=True),
                mapper=train_mapper,
                total_batch_size=16,
                aspect_ratio_grouping=True,
                num_workers=4,
            ),
            test=L(build_detection_test_loader)(
                dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
                mapper=test_mapper,
                num_workers=4,
            ),
            evaluator=L(FastCOCOEvaluator)(dataset_name="${..test.dataset.names}"),
        ),
        flags={"allow_objects": True},
    )


def sgd(lr, weight_decay, on_norms=True) -> DictConfig:
    # The model is set by whoever builds the optimizer, as always in Detectron2.
    return L(torch.optim.SGD)(
        params=L(get_default_optimizer_params)(
            weight_decay_norm="${..weight_decay}" if on_norms else 0.0
        ),
        lr=lr,
        momentum=0.9,
        weight_decay=weight_decay,
    )


def train_group(max_iter, period, init_checkpoint, base_batch_size=16, **changes) -> dict:
    """A recipe's `train`; evaluates and saves every `period` steps."""
    return {
        **TRAIN_DEFAULTS,
        "init_checkpoint": init_checkpoint,
        "max_iter": max_iter,
        "base_batch_size": base_batch_size,
        "scale_to_batch_size": True,
        "amp": dict(enabled=False),
        "checkpointer": dict(period=period, max_to_keep=100),
        "eval_period": period,
        **changes,
    }


def config(**parts) -> DictConfig:
    return OmegaConf.create(parts, flags={"allow_objects": True})


def choice(what, value, known) -> str:
    normal = str(value).strip()
    for name in known:
        if name.lower() == normal.lower():
            return name
    raise ValueError(f"unknown {what} {value!r}: {suggest(normal, known)}")
