"""Mask R-CNN, RegNetY-4.0GF, large-scale jitter;
in Detectron2 new_baselines/mask_rcnn_regnety_4gf_dds_FPN_200ep_LSJ.
"""

from d2_regnet.model_zoo.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe(
    "mask_rcnn", "RegNetY-4.0GF", "lsj_200ep"
).values()
