"""Recipes: arch x detector x schedule, composed into one complete LazyConfig.

    cfg = recipe("mask_rcnn", "RegNetX-3.2GF", "1x")
    cfg.optimizer.lr = 0.01  # any key may be changed afterwards

`1x`, `2x` and `3x` are MMDetection's RegNet recipes (mmdet 3.3.0, configs/regnet), `lsj_100ep`,
`lsj_200ep` and `lsj_400ep` Detectron2's with large-scale jitter (its configs/new_baselines).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import detectron2.data.transforms as T
import torch
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import DictConfig, OmegaConf

from d2_regnet.archs import RegNetArch, arch_name, get_arch, is_arch_file, suggest
from d2_regnet.data.loader import build_train_loader
from d2_regnet.data.mapper import RobustMapper
from d2_regnet.evaluation import FastCOCOEvaluator
from d2_regnet.solver import multi_step_lr, steps_per_epoch

from . import detectors

DETECTORS = {
    "mask_rcnn": detectors.mask_rcnn,
    "faster_rcnn": detectors.faster_rcnn,
    "retinanet": detectors.retinanet,
    "cascade_mask_rcnn": detectors.cascade_mask_rcnn,
}

# Epochs, and the epochs at which the rate drops to a tenth.
SCHEDULES = {"1x": (12, (8, 11)), "2x": (24, (16, 22)), "3x": (36, (27, 33))}
LSJ_EPOCHS = {"lsj_100ep": 100, "lsj_200ep": 200, "lsj_400ep": 400}

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
PYCLS_STD = detectors.PIXEL_STATISTICS["BGR"][1]


def recipe(
    detector: str,
    arch: str | RegNetArch | Mapping,
    schedule: str,
    *,
    input_format: str | None = None,
    resize: str | None = None,
    mask_format: str = "bitmask",
    drops: Sequence[int] | None = None,
    lr: float = 0.02,
    clip_grad: float | None = None,
    deform_stages: Sequence[str] = (),
    total_batch_size: int | None = None,
) -> DictConfig:
    """One complete LazyConfig: model, dataloader, optimizer, lr_multiplier and train.

    The backbone is pre-trained on ImageNet, its stem and first stage are frozen, and so are the
    statistics of all its norms, whose scale and shift are trained. A custom arch has no published
    weights: nothing of it is frozen and its norms are BN, until the config says otherwise.

    Args:
        detector: mask_rcnn, faster_rcnn, retinanet or cascade_mask_rcnn.
        arch: a published RegNet's name, the parameters of another or a YAML file of them (see
            `archs.get_arch`), or r50, r101, x101_32x4d.
        schedule: 1x (12 epochs of COCO), 2x, 3x, or lsj_100ep, lsj_200ep, lsj_400ep, which takes
            `deform_stages` and `total_batch_size` alone of the options below.
        input_format: channel order of the images, "BGR" or "RGB"; by default that of the backbone's
            weights, which is BGR for RegNets and RGB for ResNets.
        resize: a key of `RESIZES`; by default "range" at 3x, and "fixed" else.
        mask_format: "bitmask" or "polygon"; of no effect on boxes-only detectors.
        drops: the epochs at which the rate drops to a tenth, in place of the schedule's.
        lr: the rate after warm-up at 16 images a step.
        clip_grad: the largest norm of all gradients together; None leaves them as they are.
        deform_stages: stages of a RegNet whose 3x3 convolutions are deformable.
        total_batch_size: images a step over all GPUs in place of the recipe's 16, or 64 with
            large-scale jitter; the rate and the steps follow (see `scale_to_batch_size`).

    Raises:
        ValueError: an unknown name, or an impossible value; the message lists what there is.
    """
    detector = _choice("detector", detector, DETECTORS)
    schedule = _choice("schedule", schedule, [*SCHEDULES, *LSJ_EPOCHS])
    if schedule in LSJ_EPOCHS:
        given = (input_format, resize, drops, clip_grad, mask_format, lr)
        if given != (None, None, None, None, "bitmask", 0.02):
            raise ValueError(f"{schedule} is Detectron2's recipe: set keys of its config instead")
        cfg = _lsj(detector, arch, LSJ_EPOCHS[schedule], deform_stages)
    else:
        body, weights, own_format = _body(arch, deform_stages)
        input_format = _choice("input_format", input_format or own_format, ["BGR", "RGB"])
        mask_format = _choice("mask_format", mask_format, ["bitmask", "polygon"])
        resize = _choice("resize", resize or ("range" if schedule == "3x" else "fixed"), RESIZES)
        epochs, usual_drops = SCHEDULES[schedule]
        max_iter = epochs * steps_per_epoch(16)
        cfg = _config(
            model=DETECTORS[detector](body, input_format=input_format),
            dataloader=_coco(
                [
                    L(T.ResizeShortestEdge)(
                        sample_style=RESIZES[resize][0],
                        short_edge_length=RESIZES[resize][1],
                        max_size=1333,
                    ),
                    L(T.RandomFlip)(horizontal=True),
                ],
                input_format,
                mask_format=mask_format if "mask" in detector else None,
            ),
            optimizer=_sgd(lr, weight_decay=1e-4 if _is_resnet(arch) else 5e-5),
            lr_multiplier=multi_step_lr(epochs, usual_drops if drops is None else drops, max_iter),
            train=_train(max_iter, period=steps_per_epoch(16), init_checkpoint=weights),
        )
        if clip_grad is not None:
            cfg.train.clip_grad = dict(max_norm=clip_grad, norm_type=2.0)
    if total_batch_size is not None:
        cfg.dataloader.train.total_batch_size = total_batch_size
        scale_to_batch_size(cfg)
    return cfg


def scale_to_batch_size(cfg: DictConfig) -> None:
    """Fits the rate and the steps to the batch size, in place: half the batch, half the rate,
    twice the steps.

    The linear scaling rule (Goyal et al., https://arxiv.org/abs/1706.02677), as Detectron2's
    `DefaultTrainer.auto_scale_workers`. `train.base_batch_size` is the batch size that the rate
    and the steps are meant for, `dataloader.train.total_batch_size` the one to be used. Where they
    differ, `optimizer.lr` is multiplied by their ratio, `train.max_iter`, `train.eval_period` and
    `train.checkpointer.period` are divided by it, and `base_batch_size` becomes the new size, so
    that a second call changes nothing. The schedule is in fractions of the training and stretches
    along, its warm-up too. `train.scale_to_batch_size=False` turns it off.

    Args:
        cfg: a recipe; any other config has no `train.base_batch_size` and is left as it is.

    Raises:
        ValueError: a batch size below 1.
    """
    train = cfg.get("train", {})
    base = train.get("base_batch_size")
    if not base or not train.get("scale_to_batch_size", True):
        return
    batch = cfg.dataloader.train.total_batch_size
    if batch < 1:
        raise ValueError(f"dataloader.train.total_batch_size must be at least 1, not {batch}")
    if batch == base:
        return
    cfg.optimizer.lr *= batch / base
    train.max_iter = round(train.max_iter * base / batch)
    train.eval_period = round(train.eval_period * base / batch)
    train.checkpointer.period = max(1, round(train.checkpointer.period * base / batch))
    train.base_batch_size = batch


def detectron2_1x(arch: str) -> DictConfig:
    """Detectron2's own RegNet recipe: Mask R-CNN, FrozenBN, 90,000 steps of 16 images.

    As its configs/COCO-InstanceSegmentation/mask_rcnn_regnet{x,y}_4gf_dds_fpn_1x.py.

    Args:
        arch: a published RegNet's name.
    """
    name = arch_name(arch)
    model = _detectron2_model("mask_rcnn")
    model.backbone.bottom_up = detectors.regnet(name, norm="FrozenBN")
    model.pixel_std = PYCLS_STD
    max_iter = 90_000
    return _config(
        model=model,
        dataloader=_coco(
            [
                L(T.ResizeShortestEdge)(
                    sample_style="choice", short_edge_length=RESIZES["choice"][1], max_size=1333
                ),
                L(T.RandomFlip)(horizontal=True),
            ],
            "BGR",
            mask_format="polygon",
        ),
        optimizer=_sgd(0.02, weight_decay=5e-5, on_norms=False),
        lr_multiplier=L(WarmupParamScheduler)(
            scheduler=L(MultiStepParamScheduler)(
                values=[1.0, 0.1, 0.01], milestones=[60_000, 80_000], num_updates=max_iter
            ),
            warmup_length=1000 / max_iter,
            warmup_factor=0.001,
        ),
        train=_train(max_iter, 5000, f"regnet://pycls/{name}", cudnn_benchmark=True),
    )


def _lsj(detector, arch, epochs, deform_stages) -> DictConfig:
    """Detectron2's new_baselines: from scratch, SyncBN everywhere, crops of 1024, batches of 64."""
    body, _, _ = _body(arch, deform_stages)
    body.update(norm="SyncBN", freeze_at=0)
    model = _detectron2_model(detector)
    if detector == "retinanet":
        own = detectors.retinanet(body).backbone
        model.backbone.in_features = own.in_features
        model.backbone.top_block.update(
            in_channels=own.top_block.in_channels, in_feature=own.top_block.in_feature
        )
    else:
        model.proposal_generator.head.conv_dims = [-1, -1]
        heads = model.roi_heads
        # Heads may get no input at all, which torch's SyncBatchNorm cannot take.
        norm = "naiveSyncBN_N"
        for box_head in heads.get("box_heads") or [heads.box_head]:
            box_head.update(conv_dims=[256] * 4, fc_dims=[1024], conv_norm=norm)
        if "mask" in detector:
            heads.mask_head.conv_norm = norm
    model.backbone.update(bottom_up=body, norm="SyncBN")
    model.pixel_std = PYCLS_STD
    masks = "mask" in detector
    side = 1024
    dataloader = _coco(
        [
            L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=side, target_width=side),
            L(T.FixedSizeCrop)(crop_size=(side, side)),
            L(T.RandomFlip)(horizontal=True),
        ],
        "BGR",
        mask_format="polygon" if masks else None,
    )
    # A crop cuts objects: their boxes are computed again from what is left of their masks.
    dataloader.train.mapper.recompute_boxes = masks
    dataloader.train.total_batch_size = 64
    # 184,375 steps of 64 images are 100 epochs, of 118,000 images as Detectron2 counts.
    max_iter = 184_375 * epochs // 100
    return _config(
        model=model,
        dataloader=dataloader,
        optimizer=_sgd(0.1, weight_decay=4e-5, on_norms=False),
        lr_multiplier=L(WarmupParamScheduler)(
            scheduler=L(MultiStepParamScheduler)(
                values=[1.0, 0.1, 0.01],
                milestones=[163_889 * epochs // 100, 177_546 * epochs // 100],
                num_updates=max_iter,
            ),
            warmup_length=500 / 184_375,
            warmup_factor=0.067,
        ),
        train=_train(
            max_iter,
            5000,
            init_checkpoint="",
            base_batch_size=64,
            amp=dict(enabled=True),
            fp16_compression=True,
            cudnn_benchmark=True,
        ),
    )


def _detectron2_model(detector) -> DictConfig:
    """The model of Detectron2's own common configs."""
    # Here, not above: it imports pkg_resources, which warns.
    from detectron2 import model_zoo

    file = {"retinanet": "retinanet", "cascade_mask_rcnn": "cascade_rcnn"}
    model = model_zoo.get_config(f"common/models/{file.get(detector, 'mask_rcnn_fpn')}.py").model
    if detector == "faster_rcnn":
        for key in ("mask_in_features", "mask_pooler", "mask_head"):
            del model.roi_heads[key]
    return model


def _is_resnet(arch) -> bool:
    return isinstance(arch, str) and arch.lower().replace("-", "_") in RESNETS


def _body(arch, deform_stages):
    """A lazy backbone, the address of its ImageNet weights ("" where there are none), their format."""
    if _is_resnet(arch):
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


def _coco(augmentations, input_format, mask_format) -> DictConfig:
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


def _sgd(lr, weight_decay, on_norms=True) -> DictConfig:
    # The model is set by whoever builds the optimizer, as always in Detectron2.
    return L(torch.optim.SGD)(
        params=L(get_default_optimizer_params)(
            weight_decay_norm="${..weight_decay}" if on_norms else 0.0
        ),
        lr=lr,
        momentum=0.9,
        weight_decay=weight_decay,
    )


def _train(
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


def _config(**parts) -> DictConfig:
    return OmegaConf.create(parts, flags={"allow_objects": True})


def _choice(what, value, known) -> str:
    normal = str(value).strip()
    for name in known:
        if name.lower() == normal.lower():
            return name
    raise ValueError(f"unknown {what} {value!r}: {suggest(normal, known)}")
