"""Mask R-CNN, ResNet-50, 1x; in MMDetection mask_rcnn/mask-rcnn_r50_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

_recipe = recipe("mask_rcnn", "r50", "1x")
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train
