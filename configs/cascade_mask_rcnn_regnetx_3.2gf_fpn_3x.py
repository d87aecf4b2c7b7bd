"""Cascade Mask R-CNN, RegNetX-3.2GF, 3x;
in MMDetection regnet/cascade-mask-rcnn_regnetx-3.2GF_fpn_ms-3x_coco.
"""

from d2_regnet.model_zoo.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe(
    "cascade_mask_rcnn", "RegNetX-3.2GF", "3x"
).values()
