"""Faster R-CNN, ResNet-50, 1x; in MMDetection faster_rcnn/faster-rcnn_r50_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe("faster_rcnn", "r50", "1x").values()
