"""Mask R-CNN, ResNeXt-101-32x4d, 1x; in MMDetection mask_rcnn/mask-rcnn_x101-32x4d_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

_recipe = recipe("mask_rcnn", "x101_32x4d", "1x")
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train
