"""Mask R-CNN, ResNet-50, 1x; in MMDetection mask_rcnn/mask-rcnn_r50_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe("mask_rcnn", "r50", "1x").values()
