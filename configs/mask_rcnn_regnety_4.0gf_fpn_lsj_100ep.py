"""Mask R-CNN, RegNetY-4.0GF, large-scale jitter;
in Detectron2 new_baselines/mask_rcnn_regnety_4gf_dds_FPN_100ep_LSJ.
"""

from d2_regnet.model_zoo.recipes import recipe

_recipe = recipe("mask_rcnn", "RegNetY-4.0GF", "lsj_100ep")
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train
