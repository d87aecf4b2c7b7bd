"""Mask R-CNN, RegNetX-4.0GF, large-scale jitter;
in Detectron2 new_baselines/mask_rcnn_regnetx_4gf_dds_FPN_400ep_LSJ.
"""

from d2_regnet.model_zoo.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe(
    "mask_rcnn", "RegNetX-4.0GF", "lsj_400ep"
).values()
