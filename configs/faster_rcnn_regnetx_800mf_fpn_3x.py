"""Faster R-CNN, RegNetX-800MF, 3x;
in MMDetection regnet/faster-rcnn_regnetx-800MF_fpn_ms-3x_coco.
"""

from d2_regnet.model_zoo.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe(
    "faster_rcnn", "RegNetX-800MF", "3x"
).values()
