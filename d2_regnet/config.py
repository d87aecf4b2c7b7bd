"""Settings for yacs configs (`DefaultPredictor`, `DefaultTrainer`, YAML files)."""

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from .archs import get_arch, suggest
from .utils.dtypes import dtype_named

# The keys of MODEL.REGNETS that, taken together, replace ARCH: RegNetArch's parameters.
_PARAMETERS = {
    "DEPTH": 0,
    "W_0": 0,
    "W_A": 0.0,
    "W_M": 0.0,
    "GROUP_WIDTH": 0,
    "BOTTLENECK_RATIO": 1.0,
    "SE_RATIO": 0.0,
    "STEM_WIDTH": 32,
}


def add_regnet_config(cfg: CfgNode) -> None:
    """Adds the RegNet settings to a Detectron2 config, in place.

    Use one of the registered backbones, `build_regnet_backbone`, `build_regnet_fpn_backbone` or
    `build_retinanet_regnet_fpn_backbone`, as `MODEL.BACKBONE.NAME`. `MODEL.BACKBONE.FREEZE_AT`
    counts as in Detectron2: 1 freezes the stem, 2 the stem and s1.

    Args:
        cfg: a config from `detectron2.config.get_cfg()`.
    """
    cfg.MODEL.REGNETS = CfgNode()
    # A published RegNet by name, such as "RegNetX-3.2GF" ...
    cfg.MODEL.REGNETS.ARCH = ""
    # ... or its design parameters (archs.RegNetArch explains them); never both.
    for key, default in _PARAMETERS.items():
        cfg.MODEL.REGNETS[key] = default
    # The stages whose output is returned: "stem", "s1", "s2", "s3", "s4".
    cfg.MODEL.REGNETS.OUT_FEATURES = ["s1", "s2", "s3", "s4"]
    # What Detectron2's get_norm takes, or "EvalBN": statistics frozen, scale and shift trained.
    cfg.MODEL.REGNETS.NORM = "FrozenBN"
    # Modulated deformable 3x3 convolutions in s1, s2, s3, s4.
    cfg.MODEL.REGNETS.DEFORM_ON_PER_STAGE = [False, False, False, False]
    # The stages whose inner activations are computed again in the backward pass to save memory.
    cfg.MODEL.REGNETS.ACTIVATION_CHECKPOINT = []
    # Compute convolutions and the EvalBN or FrozenBN after them as one: faster, less memory.
    cfg.MODEL.REGNETS.FUSE_CONV_NORM = True
    # Whether RetinaNet's P7 is computed from the ReLU of P6 (Detectron2) or from P6 (MMDetection).
    cfg.MODEL.FPN.P7_RELU = True
    # For MMDetRPN, MMDetROIHeads and MMDetRetinaNet (modeling.matcher.MaxIoUMatcher): the IoU from
    # which an object's best box is a match even below the upper one of IOU_THRESHOLDS.
    cfg.MODEL.RPN.MIN_LOW_QUALITY_IOU = 0.3
    cfg.MODEL.ROI_HEADS.MIN_LOW_QUALITY_IOU = 0.5
    cfg.MODEL.RETINANET.MIN_LOW_QUALITY_IOU = 0.0
    # For CascadeMaskROIHeads: what all losses of each stage are multiplied by.
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.STAGE_LOSS_WEIGHTS = (1.0, 0.5, 0.25)
    # For OptimizedGeneralizedRCNN, OptimizedRetinaNet and OptimizedMMDetRetinaNet as
    # MODEL.META_ARCHITECTURE: the precision, float32, bfloat16 or float16, in which
    # optimize.optimize_for_inference has them detect, and whether it compiles.
    cfg.MODEL.OPTIMIZED = CfgNode({"DTYPE": "float32", "COMPILE": False})
    # For engine.yacs_trainer.YacsTrainer: at losses that are not finite, so many steps in a row are
    # left out (0: it stops), and so many batches saved for `d2-regnet replay` ...
    cfg.SOLVER.NON_FINITE = CfgNode({"SKIP": 0, "SAVE": 3})
    # ... the norm of all gradients together is what is clipped ...
    cfg.SOLVER.CLIP_GRADIENTS.FULL_MODEL = False
    # ... the best model is kept, by a metric such as "bbox/AP" and "max" or "min" of it ("": none),
    # the training ends after PATIENCE evaluations without a gain of more than MIN_DELTA (0: never),
    # an average of the weights is evaluated and saved in their place, so many batches make a
    # step, metrics also go to some of "tensorboard", "wandb" and "mlflow" ...
    cfg.SOLVER.KEEP_BEST = CfgNode({"METRIC": "", "MODE": "max"})
    cfg.SOLVER.EARLY_STOPPING = CfgNode({"PATIENCE": 0, "MIN_DELTA": 0.0})
    cfg.SOLVER.EMA = CfgNode({"ENABLED": False, "DECAY": 0.9998})
    cfg.SOLVER.ACCUMULATE = 1
    cfg.SOLVER.LOGGERS = ["tensorboard"]
    # ... evaluations measure the losses on the test data, too ...
    cfg.TEST.VALIDATION_LOSS = False
    # ... and large-scale jitter, crops of SIZE x SIZE pixels of the image scaled to MIN_SCALE to
    # MAX_SCALE times SIZE, takes the place of resizing in training.
    cfg.INPUT.LSJ = CfgNode({"ENABLED": False, "SIZE": 1024, "MIN_SCALE": 0.1, "MAX_SCALE": 2.0})


def regnet_arguments(cfg: CfgNode) -> dict:
    """The arguments of `modeling.build_regnet`, but for `in_channels`, that a config asks for.

    Raises:
        ValueError: MODEL.REGNETS is missing, or its settings contradict each other or cannot be;
            the message names the key.
    """
    node = _group(cfg, "REGNETS")
    try:
        arch = get_arch(_arch(node))
    except ValueError as error:
        raise ValueError(f"MODEL.REGNETS: {error}") from error
    stages = [f"s{i}" for i, _ in enumerate(arch.stage_widths, start=1)]
    deform = list(node.DEFORM_ON_PER_STAGE)
    if any(deform) and len(deform) != len(stages):
        raise ValueError(
            f"MODEL.REGNETS.DEFORM_ON_PER_STAGE has {len(deform)} entries for {len(stages)} stages"
        )
    return {
        "arch": arch,
        "norm": node.NORM,
        "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        "out_features": node.OUT_FEATURES,
        "activation_checkpoint": node.ACTIVATION_CHECKPOINT,
        "deform_stages": [stage for stage, on in zip(stages, deform) if on],
        "fuse_conv_norm": node.FUSE_CONV_NORM,
    }


def regnet_key(message: str) -> str:
    """The key behind an error of `build_regnet`, whose messages begin with an argument's name."""
    argument = message.replace(":", " ").split()[0]
    if argument == "freeze_at":
        return "MODEL.BACKBONE.FREEZE_AT"
    own = argument in ("norm", "out_features", "activation_checkpoint")
    return f"MODEL.REGNETS.{argument.upper()}" if own else "MODEL.REGNETS"


def _group(cfg: CfgNode, name: str) -> CfgNode:
    if name not in cfg.MODEL:
        raise ValueError(
            f"MODEL.{name} is missing: call d2_regnet.add_regnet_config(cfg) after get_cfg()"
        )
    return cfg.MODEL[name]


def _arch(node: CfgNode) -> str | dict:
    given = [key for key, default in _PARAMETERS.items() if node[key] != default]
    if node.ARCH:
        if given:
            raise ValueError(f"ARCH is {node.ARCH!r} and {', '.join(given)} given too; choose one")
        return node.ARCH
    if not given:
        raise ValueError("give ARCH (such as 'RegNetX-3.2GF') or DEPTH, W_0, W_A, W_M, GROUP_WIDTH")
    return {key.lower(): node[key] for key in _PARAMETERS}


def yacs_options(cfg: CfgNode) -> dict:
    """`dtype` and `compile` of `optimize_for_inference` as `cfg.MODEL.OPTIMIZED` sets them.

    Raises:
        ValueError: naming the key.
    """
    node, name = _group(cfg, "OPTIMIZED"), cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY:
        known = sorted(kind for kind, _ in META_ARCH_REGISTRY)
        raise ValueError(f"MODEL.META_ARCHITECTURE {name!r} is unknown; {suggest(name, known)}")
    try:
        return {"dtype": dtype_named(node.DTYPE), "compile": node.COMPILE}
    except ValueError as error:
        raise ValueError(f"MODEL.OPTIMIZED.DTYPE: {error}") from error
