"""The yacs form of a recipe, for `DefaultPredictor`, `DefaultTrainer` and YAML files.

The LazyConfig is the source: `to_yacs` reads every setting off it, most of them by the keys of
`yacs.json`. What Detectron2's own keys cannot say, those of `add_regnet_config` do; two of them
concern training and want `YacsTrainer` (`engine.yacs_trainer`) in place of `DefaultTrainer`:

- `SOLVER.CLIP_GRADIENTS.FULL_MODEL`, one norm of all gradients clipped. `DefaultTrainer` clips the
  gradient of each parameter at the same value.
- `INPUT.LSJ`, large-scale jitter. `DefaultTrainer` resizes by `INPUT.MIN_SIZE_TRAIN`.
"""

import json
from importlib import resources
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg
from omegaconf import DictConfig, ListConfig, OmegaConf

from d2_regnet.config import add_regnet_config
from d2_regnet.utils.signatures import default, target_of


def to_yacs(cfg: DictConfig) -> CfgNode:
    """The yacs config that builds and trains what a recipe does.

    Args:
        cfg: a LazyConfig of `recipes`; its keys may have been changed.

    Raises:
        ValueError: augmentations that yacs configs cannot express.
    """
    keys = json.loads(resources.files("d2_regnet.model_zoo").joinpath("yacs.json").read_text())
    settings = {
        yacs: value for lazy, yacs in keys.items() if (value := _value(cfg, lazy)) is not None
    }
    settings |= _backbone(cfg.model)
    settings |= _rcnn(cfg.model) if "roi_heads" in cfg.model else _retinanet(cfg.model)
    settings |= _input(cfg.dataloader) | _solver(cfg)
    nested: dict = {}
    for key, value in settings.items():
        *groups, name = key.split(".")
        node = nested
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    result = _defaults()
    result.merge_from_other_cfg(CfgNode(nested))
    return result


def to_yaml(cfg: DictConfig) -> str:
    """The text of a YAML file for `merge_from_file`: all that `to_yacs` sets to another value."""
    changes = _difference(to_yacs(cfg), _defaults())
    return yaml.safe_dump({"VERSION": 2, **changes}, default_flow_style=None, width=100)


def _defaults() -> CfgNode:
    cfg = get_cfg()
    add_regnet_config(cfg)
    return cfg


def _difference(cfg: CfgNode, usual: CfgNode) -> dict:
    changed = {}
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            if inner := _difference(value, usual[key]):
                changed[key] = inner
        elif value != usual[key]:
            changed[key] = value
    return changed


def _value(node: Any, key: str) -> Any:
    """What the call that a dotted key belongs to gets for it, be it by default.

    A part of which a cascade has one in each stage stands for the first. None: there is no such
    call, or it has no such argument.
    """
    *parts, last = key.split(".")
    for part in parts:
        stages = node.get(f"{part}s")
        node = stages[0] if stages else node.get(part)
        if node is None:
            return None
    if last == "_target_":
        return target_of(node).__name__
    if last in node:
        value = node[last]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_list(value) else value
    try:
        return default(target_of(node), last) if "_target_" in node else None
    except ValueError:
        return None


def _backbone(model: DictConfig) -> dict:
    bottom_up, group, builder = model.backbone.bottom_up, "RESNETS", "baseline_resnet"
    settings = {key: _value(bottom_up, key.lower()) for key in ("NORM", "OUT_FEATURES")}
    if "arch" in bottom_up:
        group, builder = "REGNETS", "regnet"
        arch = {"ARCH": bottom_up.arch} if isinstance(bottom_up.arch, str) else bottom_up.arch
        settings |= {key.upper(): value for key, value in arch.items()}
        stages = _value(bottom_up, "deform_stages")
        settings["DEFORM_ON_PER_STAGE"] = [f"s{i}" in stages for i in (1, 2, 3, 4)]
    top_block = target_of(model.backbone.top_block).__name__
    return {
        "MODEL.BACKBONE.NAME": (
            f"build_{'' if 'roi_heads' in model else 'retinanet_'}{builder}_fpn_backbone"
        ),
        "MODEL.FPN.P7_RELU": "NoReLU" not in top_block,
        **{f"MODEL.{group}.{key}": value for key, value in settings.items()},
    }


def _retinanet(model: DictConfig) -> dict:
    return {
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [_value(model, "anchor_generator.aspect_ratios")],
        "MODEL.RETINANET.NUM_CONVS": len(model.head.conv_dims),
    }


def _rcnn(model: DictConfig) -> dict:
    rpn, heads = model.proposal_generator, model.roi_heads
    conv_dims = _value(heads, "box_head.conv_dims")
    fc_dims = _value(heads, "box_head.fc_dims")
    settings = {
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [_value(rpn, "anchor_generator.aspect_ratios")],
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": int(_value(rpn, "min_box_size")),
        "MODEL.RPN.BOUNDARY_THRESH": int(_value(rpn, "anchor_boundary_thresh")),
        "MODEL.ROI_BOX_HEAD.NUM_CONV": len(conv_dims),
        "MODEL.ROI_BOX_HEAD.CONV_DIM": (conv_dims or [256])[0],
        "MODEL.ROI_BOX_HEAD.NUM_FC": len(fc_dims),
        "MODEL.ROI_BOX_HEAD.FC_DIM": fc_dims[0],
    }
    for key in ("PRE_NMS_TOPK", "POST_NMS_TOPK"):
        train, test = _value(rpn, key.lower())
        settings |= {f"MODEL.RPN.{key}_TRAIN": train, f"MODEL.RPN.{key}_TEST": test}
    if "box_predictors" in heads:
        settings["MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS"] = [
            _value(each, "box2box_transform.weights") for each in heads.box_predictors
        ]
        settings["MODEL.ROI_BOX_CASCADE_HEAD.IOUS"] = [
            each.thresholds[0] for each in heads.proposal_matchers
        ]
    if conv_dims := _value(heads, "mask_head.conv_dims"):
        # The last of its convolutions is the one that doubles the side.
        settings["MODEL.ROI_MASK_HEAD.NUM_CONV"] = len(conv_dims) - 1
        settings["MODEL.ROI_MASK_HEAD.CONV_DIM"] = conv_dims[0]
    return settings


def _input(data: DictConfig) -> dict:
    (test_resize,) = data.test.mapper.augmentations
    return {
        "DATASETS.TRAIN": (data.train.dataset.names,),
        "DATASETS.TEST": (data.test.dataset.names,),
        "INPUT.MIN_SIZE_TEST": test_resize.short_edge_length,
        "INPUT.MAX_SIZE_TEST": test_resize.max_size,
        "INPUT.RANDOM_FLIP": "horizontal",
        **_augmentations(data.train.mapper.augmentations),
    }


def _augmentations(nodes: ListConfig) -> dict:
    match [target_of(node).__name__ for node in nodes]:
        case ["ResizeShortestEdge", "RandomFlip"]:
            return {
                "INPUT.MIN_SIZE_TRAIN": _value(nodes[0], "short_edge_length"),
                "INPUT.MAX_SIZE_TRAIN": nodes[0].max_size,
                "INPUT.MIN_SIZE_TRAIN_SAMPLING": nodes[0].sample_style,
            }
        case ["ResizeScale", "FixedSizeCrop", "RandomFlip"]:
            return {
                "INPUT.LSJ.ENABLED": True,
                "INPUT.LSJ.SIZE": nodes[0].target_height,
                "INPUT.LSJ.MIN_SCALE": nodes[0].min_scale,
                "INPUT.LSJ.MAX_SCALE": nodes[0].max_scale,
            }
        case names:
            raise ValueError(f"no yacs keys for the augmentations {', '.join(names)}")


def _solver(cfg: DictConfig) -> dict:
    train, warmup = cfg.train, cfg.lr_multiplier
    steps, clip = warmup.scheduler, train.get("clip_grad")
    settings = {
        "STEPS": tuple(round(m * train.max_iter / steps.num_updates) for m in steps.milestones),
        "GAMMA": steps["values"][1],
        "WARMUP_ITERS": round(warmup.warmup_length * train.max_iter),
        "CLIP_GRADIENTS.ENABLED": bool(clip),
    }
    if clip:
        settings |= {
            "CLIP_GRADIENTS.CLIP_TYPE": "norm",
            "CLIP_GRADIENTS.CLIP_VALUE": clip.max_norm,
            "CLIP_GRADIENTS.NORM_TYPE": clip.norm_type,
            "CLIP_GRADIENTS.FULL_MODEL": True,
        }
    return {f"SOLVER.{key}": value for key, value in settings.items()}
