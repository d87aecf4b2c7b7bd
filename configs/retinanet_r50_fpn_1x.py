"""RetinaNet, ResNet-50, 1x; in MMDetection retinanet/retinanet_r50_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

_recipe = recipe("retinanet", "r50", "1x", lr=0.01)
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train
