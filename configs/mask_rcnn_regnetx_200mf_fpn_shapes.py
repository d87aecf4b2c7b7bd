"""Mask R-CNN, RegNetX-200MF, on the built-in shapes: what `make demo` trains.

From scratch, in minutes, on two CPU cores. It is the usual model made small: images of 160 pixels
instead of 1333, so anchors of half the size; a quarter of the channels after the backbone, fewer
boxes; and batch norm in the FPN and the heads, without which random weights learn much more slowly.
"""

import detectron2.data.transforms as T
import torch
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import CosineParamScheduler

from d2_regnet.model_zoo.recipes import recipe

CHANNELS = 64

_recipe = recipe("mask_rcnn", "RegNetX-200MF", "1x")
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train

model.backbone.update(out_channels=CHANNELS, norm="BN")
model.backbone.bottom_up.update(norm="BN", freeze_at=0)
rpn = model.proposal_generator
rpn.head.in_channels = CHANNELS
rpn.anchor_generator.sizes = [[16], [32], [64], [128], [256]]
rpn.update(batch_size_per_image=64, pre_nms_topk=(500, 500), post_nms_topk=(200, 100))
heads = model.roi_heads
heads.update(num_classes=6, batch_size_per_image=32)
for pooler in (heads.box_pooler, heads.mask_pooler):
    pooler.update(sampling_ratio=1, canonical_box_size=112)
heads.box_head.update(
    input_shape=ShapeSpec(channels=CHANNELS, height=7, width=7),
    conv_dims=[CHANNELS],
    fc_dims=[256],
    conv_norm="BN",
)
heads.box_predictor.input_shape = ShapeSpec(channels=256)
heads.mask_head.update(
    input_shape=ShapeSpec(channels=CHANNELS, height=14, width=14),
    conv_dims=[CHANNELS] * 3,
    conv_norm="BN",
)

dataloader.train.update(total_batch_size=4, num_workers=1)
dataloader.train.dataset.names = "shapes_train"
dataloader.train.mapper.augmentations = [L(T.RandomFlip)(horizontal=True)]
dataloader.test.dataset.names = "shapes_val"
dataloader.test.num_workers = 1
dataloader.test.mapper.augmentations = []
dataloader.evaluator.update(tasks=("bbox", "segm"), output_dir="${train.output_dir}/inference")

optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0), lr=2e-3, weight_decay=0.05
)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01),
    warmup_factor=0.01,
    warmup_length=0.05,
)
train.update(
    output_dir="output/shapes",
    init_checkpoint="",
    base_batch_size=4,
    max_iter=800,
    eval_period=200,
    checkpointer=dict(period=100, max_to_keep=1),
    log_period=10,
    seed=0,
)
