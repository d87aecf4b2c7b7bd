"""RetinaNet, RegNetX-800MF, 1x; in MMDetection regnet/retinanet_regnetx-800MF_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

_recipe = recipe("retinanet", "RegNetX-800MF", "1x", clip_grad=35.0)
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train
