"""RetinaNet, ResNet-50, 1x; in MMDetection retinanet/retinanet_r50_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe(
    "retinanet", "r50", "1x", lr=0.01
).values()
