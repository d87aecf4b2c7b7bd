"""Detectron2's own recipes for RegNets, around our backbone: its model zoo's RegNets."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import DictConfig

from d2_regnet.archs import arch_name

from . import detectors
from .parts import PYCLS_STD, RESIZES, TRAIN_DEFAULTS, backbone, coco, config, sgd, train_group


def detectron2_1x(arch: str) -> DictConfig:
    """Detectron2's own recipe of `arch`, a published RegNet's name.

    Mask R-CNN, FrozenBN, 90,000 steps of 16 images,
    as its configs/COCO-InstanceSegmentation/mask_rcnn_regnet{x,y}_4gf_dds_fpn_1x.py.
    """
    name = arch_name(arch)
    model = detectors.detectron2_model("mask_rcnn_fpn")
    model.backbone.bottom_up = detectors.regnet(name, norm="FrozenBN")
    model.pixel_std = PYCLS_STD
    resize = L(T.ResizeShortestEdge)(
        sample_style="choice", short_edge_length=RESIZES["choice"][1], max_size=1333
    )
    return config(
        model=model,
        dataloader=coco([resize, L(T.RandomFlip)(horizontal=True)], "BGR", mask_format="polygon"),
        optimizer=sgd(0.02, weight_decay=5e-5, on_norms=False),
        lr_multiplier=_schedule(90_000, [60_000, 80_000], 1000 / 90_000, 0.001),
        train=train_group(90_000, 5000, f"regnet://pycls/{name}", cudnn_benchmark=True),
    )


def lsj(detector, arch, epochs, deform_stages) -> DictConfig:
    """Detectron2's new_baselines: from scratch, SyncBN everywhere, crops of 1024, batches of 64."""
    bottom_up, _, _ = backbone(arch, deform_stages)
    bottom_up.update(norm="SyncBN", freeze_at=0)
    masks = "mask" in detector
    side = 1024
    dataloader = coco(
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
    max_iter, *drops = (steps * epochs // 100 for steps in (184_375, 163_889, 177_546))
    return config(
        model=_lsj_model(detector, bottom_up),
        dataloader=dataloader,
        optimizer=sgd(0.1, weight_decay=4e-5, on_norms=False),
        lr_multiplier=_schedule(max_iter, drops, 500 / 184_375, 0.067),
        train=train_group(
            max_iter,
            5000,
            init_checkpoint="",
            base_batch_size=64,
            amp=dict(enabled=True),
            ddp={**TRAIN_DEFAULTS["ddp"], "fp16_compression": True},
            cudnn_benchmark=True,
        ),
    )


def _schedule(max_iter, drops, warmup_length, warmup_factor) -> DictConfig:
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[1.0, 0.1, 0.01], milestones=drops, num_updates=max_iter
        ),
        warmup_length=warmup_length,
        warmup_factor=warmup_factor,
    )


def _lsj_model(detector, bottom_up) -> DictConfig:
    file = {"retinanet": "retinanet", "cascade_mask_rcnn": "cascade_rcnn"}
    model = detectors.detectron2_model(file.get(detector, "mask_rcnn_fpn"))
    if detector == "faster_rcnn":
        model = detectors.without_masks(model)
    if detector == "retinanet":
        own = detectors.retinanet(bottom_up).backbone
        bottom_up = own.bottom_up
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
    model.backbone.update(bottom_up=bottom_up, norm="SyncBN")
    model.pixel_std = PYCLS_STD
    return model
