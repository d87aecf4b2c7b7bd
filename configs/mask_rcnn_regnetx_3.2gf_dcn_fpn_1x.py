"""Mask R-CNN, RegNetX-3.2GF, deformable from s2 on, 1x;
in MMDetection regnet/mask-rcnn_regnetx-3.2GF-mdconv-c3-c5_fpn_1x_coco.
"""

from d2_regnet.model_zoo.recipes import recipe

_recipe = recipe("mask_rcnn", "RegNetX-3.2GF", "1x", deform_stages=["s2", "s3", "s4"])
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train
