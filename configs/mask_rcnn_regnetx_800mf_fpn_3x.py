"""Mask R-CNN, RegNetX-800MF, 3x;
in MMDetection regnet/mask-rcnn_regnetx-800MF_fpn_ms-poly-3x_coco.
"""

from d2_regnet.model_zoo.recipes import recipe

# The backbone's weights are BGR, and this row was trained on RGB all the same.
_recipe = recipe(
    "mask_rcnn", "RegNetX-800MF", "3x", input_format="RGB", mask_format="polygon", clip_grad=35.0
)
model = _recipe.model
dataloader = _recipe.dataloader
optimizer = _recipe.optimizer
lr_multiplier = _recipe.lr_multiplier
train = _recipe.train
