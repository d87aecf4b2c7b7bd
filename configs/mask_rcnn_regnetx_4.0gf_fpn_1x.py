"""Mask R-CNN, RegNetX-4.0GF, 1x; in MMDetection regnet/mask-rcnn_regnetx-4GF_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

_recipe = recipe("mask_rcnn", "RegNetX-4.0GF", "1x")
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train
