"""Faster R-CNN, RegNetX-3.2GF, 2x; in MMDetection regnet/faster-rcnn_regnetx-3.2GF_fpn_2x_coco."""

from d2_regnet.model_zoo.recipes import recipe

_recipe = recipe("faster_rcnn", "RegNetX-3.2GF", "2x")
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train
