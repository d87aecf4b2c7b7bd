"""What all recipes are made of: a backbone with its weights, COCO's loaders, SGD, `train`."""

import dataclasses

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
RESNETS = {
    "r50": ({"depth": 50}, "regnet://torchvision/resnet50.IMAGENET1K_V1"),
    "r101": ({"depth": 101}, "regnet://torchvision/resnet101.IMAGENET1K_V1"),
    "x101_32x4d": (
        {"depth": 101, "num_groups": 32, "width_per_group": 4},
        "regnet://mmdet/resnext101_32x4d",
    ),
}

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
        return (
            detectors.regnet(name, deform_stages=deform_stages),
            f"regnet://pycls/{name}",
            "BGR",
        )
    parameters = dataclasses.asdict(get_arch(arch))
    return (
        detectors.regnet(parameters, norm="BN", freeze_at=0, deform_stages=deform_stages),
        "",
        "BGR",
    )


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


def train_group(
    max_iter,
    period,
    init_checkpoint,
    *,
    base_batch_size=16,
    amp=None,
    fp16_compression=False,
    cudnn_benchmark=False,
) -> dict:
    return dict(
        output_dir="./output",
        init_checkpoint=init_checkpoint,
        max_iter=max_iter,
        base_batch_size=base_batch_size,
        scale_to_batch_size=True,
        clip_grad=None,
        amp=amp or dict(enabled=False),
        ddp=dict(
            broadcast_buffers=False,
            find_unused_parameters=False,
            fp16_compression=fp16_compression,
        ),
        checkpointer=dict(period=period, max_to_keep=100),
        eval_period=period,
        log_period=20,
        cudnn_benchmark=cudnn_benchmark,
        device="cuda",
    )


def config(**parts) -> DictConfig:
    return OmegaConf.create(parts, flags={"allow_objects": True})


def choice(what, value, known) -> str:
    normal = str(value).strip()
    for name in known:
        if name.lower() == normal.lower():
            return name
    raise ValueError(f"unknown {what} {value!r}: {suggest(normal, known)}")
