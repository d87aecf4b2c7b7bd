"""Faster R-CNN, RegNetX-4.0GF, 3x; in MMDetection regnet/faster-rcnn_regnetx-4GF_fpn_ms-3x_coco."""

from d2_regnet.model_zoo.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe(
    "faster_rcnn", "RegNetX-4.0GF", "3x"
).values()
