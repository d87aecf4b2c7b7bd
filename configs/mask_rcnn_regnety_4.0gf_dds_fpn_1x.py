"""Mask R-CNN, RegNetY-4.0GF, FrozenBN, 1x;
in Detectron2 COCO-InstanceSegmentation/mask_rcnn_regnety_4gf_dds_fpn_1x.
"""

from d2_regnet.model_zoo.recipes import detectron2_1x

_recipe = detectron2_1x("RegNetY-4.0GF")
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train
