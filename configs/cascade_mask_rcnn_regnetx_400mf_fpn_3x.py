"""Cascade Mask R-CNN, RegNetX-400MF, 3x;
in MMDetection regnet/cascade-mask-rcnn_regnetx-400MF_fpn_ms-3x_coco.
"""

from d2_regnet.model_zoo.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe(
    "cascade_mask_rcnn", "RegNetX-400MF", "3x"
).values()
