"""Mask R-CNN, RegNetX-3.2GF, 3x; in MMDetection regnet/mask-rcnn_regnetx-3.2GF_fpn_ms-3x_coco."""

from d2_regnet.model_zoo.recipes import recipe

_recipe = recipe(
    "mask_rcnn", "RegNetX-3.2GF", "3x", resize="choice", drops=[28, 34], clip_grad=35.0
)
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train
