"""RetinaNet, RegNetX-1.6GF, 1x; in MMDetection regnet/retinanet_regnetx-1.6GF_fpn_1x_coco."""

from d2_regnet.model_zoo.recipes import recipe

_recipe = recipe("retinanet", "RegNetX-1.6GF", "1x", clip_grad=35.0)
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train
