"""The smallest Mask R-CNN that goes through every part of the engine, on twelve small pictures."""

from detectron2.layers import ShapeSpec

from d2_regnet.data import register_shapes
from d2_regnet.recipes import recipe

model, dataloader, optimizer, lr_multiplier, train = recipe(
    "mask_rcnn", dict(depth=5, w_0=8, w_a=12, w_m=2, group_width=8), "1x"
).values()

model.backbone.out_channels = 16
model.proposal_generator.update(post_nms_topk=(30, 10), batch_size_per_image=16)
model.proposal_generator.head.in_channels = 16
heads = model.roi_heads
heads.update(num_classes=6, batch_size_per_image=16)
heads.box_head.update(input_shape=ShapeSpec(channels=16, height=7, width=7), fc_dims=[16])
heads.box_predictor.input_shape = ShapeSpec(channels=16)
heads.mask_head.update(input_shape=ShapeSpec(channels=16, height=14, width=14), conv_dims=[8, 8])

names = register_shapes(5, {"train": 8, "val": 4})
dataloader.train.dataset.names, dataloader.test.dataset.names = names
dataloader.train.update(total_batch_size=2, num_workers=0)
dataloader.test.num_workers = 0
dataloader.train.mapper.augmentations[0].short_edge_length = (64,)
dataloader.test.mapper.augmentations[0].short_edge_length = 64

optimizer.lr = 0.01
train.update(
    base_batch_size=2,
    max_iter=4,
    seed=3,
    log_period=1,
    eval_period=0,
    checkpointer=dict(period=2, max_to_keep=100),
)
