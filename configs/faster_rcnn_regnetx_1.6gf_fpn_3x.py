"""Faster R-CNN, RegNetX-1.6GF, 3x;
in MMDetection regnet/faster-rcnn_regnetx-1.6GF_fpn_ms-3x_coco.
"""

from d2_regnet.model_zoo.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe(
    "faster_rcnn", "RegNetX-1.6GF", "3x"
).values()
