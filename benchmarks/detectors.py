"""A model of the zoo around our backbone and around Detectron2's, with the same weights."""

from collections.abc import Sequence

import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.structures import BitMasks, Boxes, Instances
from omegaconf import DictConfig
from torch import nn

from d2_regnet import model_zoo
from d2_regnet.utils.modules import stages

from .backbones import detectron2_backbone, measure_statistics

PEERS = ("ours", "unfused", "detectron2")
# How far random weights spread the classes' scores, in logits: of each softmax, and of RetinaNet.
_SPREAD = {"softmax": 3.0, "sigmoid": 1.0}


def names(given: Sequence[str]) -> list[str]:
    """The models' names as the zoo spells them; "all" is every one that has a config.

    Raises:
        ValueError: an unknown name.
    """
    return [
        name
        for each in given
        for name in (model_zoo.list() if each == "all" else [model_zoo.canonical_name(each)])
    ]


def detector(name: str, peer: str, norm: str | None = None) -> nn.Module:
    """An untrained detector, on the CPU.

    Args:
        name: what `model_zoo.get_config` takes.
        peer: ours, the model as it is; unfused, with convolutions and norms apart; or detectron2,
            its own RegNet with FrozenBN. The heads are the model's own each time.
        norm: in place of that of the backbone.
    """
    model = model_zoo.get_config(name).model
    bottom_up = model.backbone.bottom_up
    if norm:
        bottom_up.norm = norm
    if "arch" in bottom_up and peer == "unfused":
        bottom_up.fuse_conv_norm = False
    if "arch" in bottom_up and peer == "detectron2" and not bottom_up.get("deform_stages"):
        model.backbone.bottom_up = L(detectron2_backbone)(
            arch=bottom_up.arch,
            norm=norm or "FrozenBN",
            freeze_at=bottom_up.freeze_at,
            out_features=[*bottom_up.out_features],
        )
    return on_cpu(instantiate(model))


def on_cpu(model: nn.Module) -> nn.Module:
    """SyncBN, which torch computes on GPUs alone, becomes the same BN of one process."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.SyncBatchNorm):
                plain = nn.BatchNorm2d(child.num_features, child.eps, child.momentum)
                setattr(module, name, plain)
    return model


def random_state(name: str, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Random weights that detect about as many objects as trained ones: the backbone's norms
    have the statistics of an image, and the scores are spread."""
    torch.manual_seed(0)
    model = detector(name, "unfused", norm="BN")
    image = images(1, size)[0]["image"][None].float()
    image = (image - model.pixel_mean) / model.pixel_std
    height, width = (-(-side // 32) * 32 for side in image.shape[2:])
    image = nn.functional.pad(image, (0, width - image.shape[3], 0, height - image.shape[2]))
    measure_statistics(model.backbone.bottom_up, lambda: model.backbone.bottom_up(image))
    _spread_scores(model.eval(), size)
    return model.state_dict()


def load(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Loads `random_state`; counters of BN have no counterpart elsewhere."""
    wanted = model.state_dict()
    missing = wanted.keys() - state.keys()
    if missing:
        raise RuntimeError(f"weights without a counterpart: {', '.join(sorted(missing))}")
    model.load_state_dict({name: state[name] for name in wanted})


def loaded(name: str, peer: str, state: dict[str, torch.Tensor], device: str) -> nn.Module:
    """A detector with a `random_state`."""
    model = detector(name, peer)
    load(model, state)
    return model.to(device)


@torch.no_grad()
def _spread_scores(model: nn.Module, size: tuple[int, int]) -> None:
    retinanet = isinstance(model, RetinaNet)
    layers = [model.head.cls_score] if retinanet else _predictors(model)
    spreads = {layer: [] for layer in layers}
    hooks = [
        layer.register_forward_hook(
            lambda layer, args, output: spreads[layer].append(output.std().item())
        )
        for layer in layers
    ]
    model(images(1, size))
    for hook in hooks:
        hook.remove()
    for layer, found in spreads.items():
        layer.weight.mul_(_SPREAD["sigmoid" if retinanet else "softmax"] / max(*found, 1e-6))


def _predictors(model: nn.Module) -> list[nn.Module]:
    predictor = model.roi_heads.box_predictor
    each = stages(predictor)
    return [one.cls_score for one in each]


def images(batch: int, size: tuple[int, int], train: bool = False, classes: int = 80) -> list[dict]:
    """Images of coloured blocks, (3, height, width) of uint8, the same at every call.

    Args:
        batch: how many.
        size: height and width in pixels.
        train: add 8 objects to each, as `DatasetMapper` does.
        classes: of the objects.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = size
    samples = []
    for _ in range(batch):
        blocks = torch.randint(256, (1, 3, 20, 30), generator=generator, dtype=torch.float32)
        pixels = nn.functional.interpolate(blocks, size)[0].byte()
        sample = {"image": pixels, "height": height, "width": width}
        if train:
            sample["instances"] = _objects(size, classes, generator)
        samples.append(sample)
    return samples


def _objects(size: tuple[int, int], classes: int, generator: torch.Generator) -> Instances:
    corners = torch.rand(8, 2, 2, generator=generator).sort(1).values
    scale = torch.tensor([size[1], size[0]])
    boxes = (corners * 0.9 * scale).floor().flatten(1)
    boxes[:, 2:] += 8
    instances = Instances(size)
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.randint(classes, (8,), generator=generator)
    masks = torch.zeros(8, *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = True
    instances.gt_masks = BitMasks(masks)
    return instances


def classes_of(model_config: DictConfig) -> int:
    """How many classes a model tells apart."""
    return model_config.get("num_classes") or model_config.roi_heads.num_classes
