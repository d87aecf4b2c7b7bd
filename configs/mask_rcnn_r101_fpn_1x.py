"""Mask R-CNN, ResNet-101, 1x; in MMDetection mask_rcnn/mask-rcnn_r101_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

_recipe = recipe("mask_rcnn", "r101", "1x")
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train
