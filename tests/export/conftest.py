"""The smallest detectors of all kinds, whose random weights find many things."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from PIL import Image
from torch import nn

from d2_regnet.data.shapes import render
from d2_regnet.engine import load_config
from d2_regnet.inference import Predictor
from d2_regnet.model_zoo.recipes import recipe

SHORT_EDGE, MAX_SIZE = 96, 150


def tiny_cascade(arch):
    model = recipe("cascade_mask_rcnn", arch, "1x").model
    model.backbone.out_channels = 16
    model.proposal_generator.head.in_channels = 16
    heads = model.roi_heads
    heads.num_classes = 6
    for box_head, predictor, mask_head in zip(
        heads.box_heads, heads.box_predictors, heads.mask_heads
    ):
        shape = ShapeSpec(channels=16, height=7, width=7)
        box_head.update(input_shape=shape, fc_dims=[16])
        predictor.input_shape = ShapeSpec(channels=16)
        shape = ShapeSpec(channels=16, height=14, width=14)
        mask_head.update(input_shape=shape, conv_dims=[8, 8])
    return model


def tiny_config(kind, data):
    """`kind`: a detector; `detectron2_` before it, with Detectron2's own classes for ours."""
    own, kind = kind.startswith("detectron2_"), kind.removeprefix("detectron2_")
    cfg = load_config(str(data / f"tiny_{'retinanet' if kind == 'retinanet' else 'mask_rcnn'}.py"))
    if kind == "deformable":
        cfg.model.backbone.bottom_up.deform_stages = ["s4"]
    if kind == "faster_rcnn":
        cfg.model.roi_heads.update(mask_in_features=None, mask_pooler=None, mask_head=None)
    if kind == "cascade_mask_rcnn":
        cfg.model = tiny_cascade(cfg.model.backbone.bottom_up.arch)
    if own and kind == "retinanet":
        cfg.model._target_ = "detectron2.modeling.meta_arch.RetinaNet"
    elif own:
        cfg.model.proposal_generator._target_ = "detectron2.modeling.proposal_generator.RPN"
        cfg.model.roi_heads._target_ = "detectron2.modeling.roi_heads.StandardROIHeads"
    if kind != "retinanet":
        cfg.model.proposal_generator.post_nms_topk = (100, 100)
    cfg.dataloader.test.mapper.augmentations[0].update(
        short_edge_length=SHORT_EDGE, max_size=MAX_SIZE
    )
    return cfg


def randomize(model):
    for name, module in model.named_modules():
        if name.endswith("conv_offset"):
            nn.init.normal_(module.weight, std=0.3)
        elif name.endswith(("cls_score", "objectness_logits", "mask_head.predictor")):
            nn.init.normal_(module.weight, std=0.6)
            nn.init.normal_(module.bias, std=1.0)
        elif name.endswith("bbox_pred") or isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)


@pytest.fixture(scope="session")
def predictor_of(fixtures, tmp_path_factory):
    """`predictor_of("mask_rcnn")`, built once."""
    built = {}

    def build(kind):
        if kind not in built:
            cfg = tiny_config(kind, fixtures)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = instantiate(cfg.model)
                randomize(model)
            weights = tmp_path_factory.mktemp("weights") / f"{kind}.pth"
            torch.save({"model": model.state_dict()}, weights)
            built[kind] = Predictor(cfg, str(weights), device="cpu", threshold=0)
        return built[kind]

    return build


@pytest.fixture(scope="session")
def images():
    """Landscape, portrait, narrow (where the longer side decides), and smaller than a cell."""
    sizes = [(128, 96), (90, 140), (200, 60), (7, 5)]
    return [
        np.asarray(Image.fromarray(render(0, "val", index)[0]).resize(size))
        for index, size in enumerate(sizes)
    ]
