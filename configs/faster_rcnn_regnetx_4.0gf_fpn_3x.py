"""Faster R-CNN, RegNetX-4.0GF, 3x; in MMDetection regnet/faster-rcnn_regnetx-4GF_fpn_ms-3x_coco."""

from d2_regnet.model_zoo.recipes import recipe

_recipe = recipe("faster_rcnn", "RegNetX-4.0GF", "3x")
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train
