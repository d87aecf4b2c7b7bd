"""RetinaNet, RegNetX-800MF, 1x; in MMDetection regnet/retinanet_regnetx-800MF_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe(
    "retinanet", "RegNetX-800MF", "1x", clip_grad=35.0
).values()
