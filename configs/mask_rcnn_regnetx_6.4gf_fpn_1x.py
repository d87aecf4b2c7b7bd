"""Mask R-CNN, RegNetX-6.4GF, 1x; in MMDetection regnet/mask-rcnn_regnetx-6.4GF_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe(
    "mask_rcnn", "RegNetX-6.4GF", "1x"
).values()
