"""The yacs form of a recipe, for `DefaultPredictor`, `DefaultTrainer` and YAML files.

The LazyConfig is the source: `to_yacs` reads every setting off it. What Detectron2's own keys
cannot say, those of `add_regnet_config` do; two of them concern training and want `YacsTrainer`
(`engine.yacs_trainer`) in place of Detectron2's `DefaultTrainer`:

- `SOLVER.CLIP_GRADIENTS.FULL_MODEL`, one norm of all gradients clipped. `DefaultTrainer` clips the
  gradient of each parameter at the same value.
- `INPUT.LSJ`, large-scale jitter. `DefaultTrainer` resizes by `INPUT.MIN_SIZE_TRAIN`.
"""

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
    result = _defaults()
    result.merge_from_other_cfg(CfgNode(_settings(cfg)))
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


def _settings(cfg: DictConfig) -> dict:
    data, model = cfg.dataloader, cfg.model
    train_mapper, (test_resize,) = data.train.mapper, data.test.mapper.augmentations
    is_retinanet = "roi_heads" not in model
    heads = _retinanet(model) if is_retinanet else _rcnn(model)
    return {
        "MODEL": {
            "META_ARCHITECTURE": target_of(model).__name__,
            "WEIGHTS": cfg.train.init_checkpoint,
            "PIXEL_MEAN": _get(model, "pixel_mean"),
            "PIXEL_STD": _get(model, "pixel_std"),
            "MASK_ON": train_mapper.use_instance_mask,
            **_backbone(model.backbone, is_retinanet),
            "ANCHOR_GENERATOR": _anchors(model if is_retinanet else model.proposal_generator),
            **heads,
        },
        "INPUT": {
            "FORMAT": train_mapper.image_format,
            "MASK_FORMAT": train_mapper.instance_mask_format,
            "MIN_SIZE_TEST": test_resize.short_edge_length,
            "MAX_SIZE_TEST": test_resize.max_size,
            **_augmentations(train_mapper.augmentations),
        },
        "DATASETS": {"TRAIN": (data.train.dataset.names,), "TEST": (data.test.dataset.names,)},
        "DATALOADER": {
            "FILTER_EMPTY_ANNOTATIONS": data.train.dataset.filter_empty,
            "ASPECT_RATIO_GROUPING": data.train.aspect_ratio_grouping,
            "NUM_WORKERS": data.train.num_workers,
        },
        "SOLVER": _solver(cfg),
        "TEST": {
            "EVAL_PERIOD": cfg.train.eval_period,
            "DETECTIONS_PER_IMAGE": _get(model, "max_detections_per_image")
            if is_retinanet
            else _get(_first(model.roi_heads, "box_predictor"), "test_topk_per_image"),
        },
        "CUDNN_BENCHMARK": cfg.train.cudnn_benchmark,
    }


def _backbone(fpn: DictConfig, is_retinanet: bool) -> dict:
    body = fpn.bottom_up
    is_regnet = "arch" in body
    kind = "regnet" if is_regnet else "baseline_resnet"
    node = {"NORM": _get(body, "norm"), "OUT_FEATURES": _get(body, "out_features")}
    if not is_regnet:
        for key in ("depth", "num_groups", "width_per_group"):
            node[key.upper()] = _get(body, key)
    else:
        if isinstance(body.arch, str):
            node["ARCH"] = body.arch
        else:
            node |= {key.upper(): value for key, value in body.arch.items()}
        stages = _get(body, "deform_stages")
        node |= {
            "DEFORM_ON_PER_STAGE": [f"s{i}" in stages for i in (1, 2, 3, 4)],
            "ACTIVATION_CHECKPOINT": list(_get(body, "activation_checkpoint")),
            "FUSE_CONV_NORM": _get(body, "fuse_conv_norm"),
        }
    return {
        "BACKBONE": {
            "NAME": f"build_{'retinanet_' if is_retinanet else ''}{kind}_fpn_backbone",
            "FREEZE_AT": _get(body, "freeze_at"),
        },
        "REGNETS" if is_regnet else "RESNETS": node,
        "FPN": {
            "IN_FEATURES": _get(fpn, "in_features"),
            "OUT_CHANNELS": _get(fpn, "out_channels"),
            "NORM": _get(fpn, "norm"),
            "P7_RELU": "NoReLU" not in target_of(fpn.top_block).__name__,
        },
    }


def _anchors(owner: DictConfig) -> dict:
    node = owner.anchor_generator
    return {
        "SIZES": _get(node, "sizes"),
        "ASPECT_RATIOS": [_get(node, "aspect_ratios")],
        "OFFSET": _get(node, "offset"),
    }


def _matcher(node: DictConfig) -> dict:
    settings = {"IOU_THRESHOLDS": _get(node, "thresholds"), "IOU_LABELS": _get(node, "labels")}
    if "min_low_quality_iou" in node:
        settings["MIN_LOW_QUALITY_IOU"] = node.min_low_quality_iou
    return settings


def _rcnn(model: DictConfig) -> dict:
    rpn, heads = model.proposal_generator, model.roi_heads
    box_head, predictor = _first(heads, "box_head"), _first(heads, "box_predictor")
    return {
        "PROPOSAL_GENERATOR": {
            "NAME": target_of(rpn).__name__,
            "MIN_SIZE": int(_get(rpn, "min_box_size")),
        },
        "RPN": {
            "IN_FEATURES": _get(rpn, "in_features"),
            **_matcher(rpn.anchor_matcher),
            "BOUNDARY_THRESH": int(_get(rpn, "anchor_boundary_thresh")),
            "BATCH_SIZE_PER_IMAGE": _get(rpn, "batch_size_per_image"),
            "POSITIVE_FRACTION": _get(rpn, "positive_fraction"),
            "BBOX_REG_WEIGHTS": _get(rpn.box2box_transform, "weights"),
            "SMOOTH_L1_BETA": _get(rpn, "smooth_l1_beta"),
            "PRE_NMS_TOPK_TRAIN": rpn.pre_nms_topk[0],
            "PRE_NMS_TOPK_TEST": rpn.pre_nms_topk[1],
            "POST_NMS_TOPK_TRAIN": rpn.post_nms_topk[0],
            "POST_NMS_TOPK_TEST": rpn.post_nms_topk[1],
            "NMS_THRESH": _get(rpn, "nms_thresh"),
            "CONV_DIMS": list(_get(rpn.head, "conv_dims")),
        },
        "ROI_HEADS": {
            "NAME": target_of(heads).__name__,
            "NUM_CLASSES": heads.num_classes,
            "IN_FEATURES": _get(heads, "box_in_features"),
            **_matcher(_first(heads, "proposal_matcher")),
            "BATCH_SIZE_PER_IMAGE": _get(heads, "batch_size_per_image"),
            "POSITIVE_FRACTION": _get(heads, "positive_fraction"),
            "PROPOSAL_APPEND_GT": _get(heads, "proposal_append_gt"),
            "SCORE_THRESH_TEST": _get(predictor, "test_score_thresh"),
            "NMS_THRESH_TEST": _get(predictor, "test_nms_thresh"),
        },
        "ROI_BOX_HEAD": {
            "NAME": target_of(box_head).__name__,
            "NUM_CONV": len(box_head.conv_dims),
            "CONV_DIM": (_get(box_head, "conv_dims") or [256])[0],
            "NUM_FC": len(box_head.fc_dims),
            "FC_DIM": box_head.fc_dims[0],
            "NORM": _get(box_head, "conv_norm"),
            "BBOX_REG_WEIGHTS": _get(predictor.box2box_transform, "weights"),
            "SMOOTH_L1_BETA": _get(predictor, "smooth_l1_beta"),
            "CLS_AGNOSTIC_BBOX_REG": _get(predictor, "cls_agnostic_bbox_reg"),
            **_pooler(heads.box_pooler),
        },
        **_optional_heads(heads),
    }


def _optional_heads(heads: DictConfig) -> dict:
    """What only a cascade, and only a model of masks, has."""
    settings = {}
    if "box_predictors" in heads:
        settings["ROI_BOX_CASCADE_HEAD"] = {
            "BBOX_REG_WEIGHTS": [
                _get(each.box2box_transform, "weights") for each in heads.box_predictors
            ],
            "IOUS": [each.thresholds[0] for each in heads.proposal_matchers],
            **_given(heads, "stage_loss_weights"),
        }
    if mask_head := _first(heads, "mask_head"):
        settings["ROI_MASK_HEAD"] = {
            "NAME": target_of(mask_head).__name__,
            # The last of its convolutions is the one that doubles the side.
            "NUM_CONV": len(mask_head.conv_dims) - 1,
            "CONV_DIM": mask_head.conv_dims[0],
            "NORM": _get(mask_head, "conv_norm"),
            **_pooler(heads.mask_pooler),
        }
    return settings


def _pooler(node: DictConfig) -> dict:
    return {
        "POOLER_RESOLUTION": node.output_size,
        "POOLER_SAMPLING_RATIO": node.sampling_ratio,
        "POOLER_TYPE": node.pooler_type,
    }


def _retinanet(model: DictConfig) -> dict:
    return {
        "RETINANET": {
            "NUM_CLASSES": model.num_classes,
            "IN_FEATURES": _get(model, "head_in_features"),
            "NUM_CONVS": len(model.head.conv_dims),
            "PRIOR_PROB": _get(model.head, "prior_prob"),
            "NORM": _get(model.head, "norm"),
            **_matcher(model.anchor_matcher),
            "BBOX_REG_WEIGHTS": _get(model.box2box_transform, "weights"),
            "FOCAL_LOSS_ALPHA": _get(model, "focal_loss_alpha"),
            "FOCAL_LOSS_GAMMA": _get(model, "focal_loss_gamma"),
            "SMOOTH_L1_LOSS_BETA": _get(model, "smooth_l1_beta"),
            "SCORE_THRESH_TEST": _get(model, "test_score_thresh"),
            "TOPK_CANDIDATES_TEST": _get(model, "test_topk_candidates"),
            "NMS_THRESH_TEST": _get(model, "test_nms_thresh"),
        }
    }


def _augmentations(nodes: ListConfig) -> dict:
    match [target_of(node).__name__ for node in nodes]:
        case ["ResizeShortestEdge", "RandomFlip"]:
            resize = nodes[0]
            return {
                "MIN_SIZE_TRAIN": _get(resize, "short_edge_length"),
                "MAX_SIZE_TRAIN": resize.max_size,
                "MIN_SIZE_TRAIN_SAMPLING": resize.sample_style,
                "RANDOM_FLIP": "horizontal",
            }
        case ["ResizeScale", "FixedSizeCrop", "RandomFlip"]:
            resize = nodes[0]
            return {
                "LSJ": {
                    "ENABLED": True,
                    "SIZE": resize.target_height,
                    "MIN_SCALE": resize.min_scale,
                    "MAX_SCALE": resize.max_scale,
                },
                "RANDOM_FLIP": "horizontal",
            }
        case names:
            raise ValueError(f"no yacs keys for the augmentations {', '.join(names)}")


def _solver(cfg: DictConfig) -> dict:
    optimizer, train, warmup = cfg.optimizer, cfg.train, cfg.lr_multiplier
    steps = warmup.scheduler
    clip = train.get("clip_grad")
    return {
        "IMS_PER_BATCH": cfg.dataloader.train.total_batch_size,
        "BASE_LR": optimizer.lr,
        "MOMENTUM": optimizer.momentum,
        "WEIGHT_DECAY": optimizer.weight_decay,
        "WEIGHT_DECAY_NORM": optimizer.params.weight_decay_norm,
        "MAX_ITER": train.max_iter,
        "STEPS": tuple(round(m * train.max_iter / steps.num_updates) for m in steps.milestones),
        "GAMMA": steps["values"][1],
        "WARMUP_ITERS": round(warmup.warmup_length * train.max_iter),
        "WARMUP_FACTOR": warmup.warmup_factor,
        "CHECKPOINT_PERIOD": train.checkpointer.period,
        "AMP": {"ENABLED": train.amp.enabled},
        "CLIP_GRADIENTS": {
            "ENABLED": True,
            "CLIP_TYPE": "norm",
            "CLIP_VALUE": clip.max_norm,
            "NORM_TYPE": clip.norm_type,
            "FULL_MODEL": True,
        }
        if clip
        else {"ENABLED": False},
    }


def _first(node: DictConfig, key: str) -> DictConfig | None:
    """node.key, or the first of node.keys, where a cascade has one of it in each stage."""
    stages = node.get(f"{key}s")
    return stages[0] if stages else node.get(key)


def _given(node: DictConfig, key: str) -> dict:
    return {key.upper(): _get(node, key)} if key in node else {}


def _get(node: DictConfig, key: str):
    """The value that the call which `node` describes gets for `key`, be it by default."""
    if key in node:
        value = node[key]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_list(value) else value
    return default(target_of(node), key)
