"""Mask R-CNN, RegNetX-3.2GF, 1x; in MMDetection regnet/mask-rcnn_regnetx-3.2GF_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe(
    "mask_rcnn", "RegNetX-3.2GF", "1x"
).values()
