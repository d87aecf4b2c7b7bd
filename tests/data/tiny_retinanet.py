"""A RetinaNet as small as the Mask R-CNN beside it, and trained as it."""

from detectron2.config import LazyConfig
from detectron2.layers import ShapeSpec

from d2_regnet.recipes import recipe

dataloader, optimizer, lr_multiplier, train = LazyConfig.load_rel(
    "./tiny_mask_rcnn.py", ("dataloader", "optimizer", "lr_multiplier", "train")
)
dataloader.train.mapper.use_instance_mask = False

model = recipe("retinanet", dict(depth=5, w_0=8, w_a=12, w_m=2, group_width=8), "1x").model
model.num_classes = 6
model.backbone.out_channels = 16
model.head.update(input_shape=[ShapeSpec(channels=16)] * 5, conv_dims=[16])
