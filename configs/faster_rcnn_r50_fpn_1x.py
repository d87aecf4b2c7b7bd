"""Faster R-CNN, ResNet-50, 1x; in MMDetection faster_rcnn/faster-rcnn_r50_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

_recipe = recipe("faster_rcnn", "r50", "1x")
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train
