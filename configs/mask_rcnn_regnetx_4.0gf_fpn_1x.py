"""Mask R-CNN, RegNetX-4.0GF, 1x; in MMDetection regnet/mask-rcnn_regnetx-4GF_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe(
    "mask_rcnn", "RegNetX-4.0GF", "1x"
).values()
