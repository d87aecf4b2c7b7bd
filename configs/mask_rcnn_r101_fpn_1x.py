"""Mask R-CNN, ResNet-101, 1x; in MMDetection mask_rcnn/mask-rcnn_r101_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe("mask_rcnn", "r101", "1x").values()
