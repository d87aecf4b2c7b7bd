"""Quick trainings of many networks on the built-in shapes: the errors that an EDF is made of.

A network learns to tell the six kinds of shapes, cut out of their images and put on grey, 64x64
pixels each. It is the smallest task here that a backbone can be good or bad at and that a CPU gets
somewhere with in seconds; it is not ImageNet, nor are a hundred steps 100 epochs.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import nn

from d2_regnet.archs import Stages
from d2_regnet.data.shapes import CLASSES, render
from d2_regnet.modeling import build_regnet
from d2_regnet.utils.files import write_file

from . import edf
from .sampling import sample

SIDE = 64
MARGIN = 1.25  # side of the crop over the longer side of the shape
GREY = 128


@dataclass(frozen=True)
class Plan:
    """What a study trains, and how; two studies of one plan give the same numbers.

    Args:
        spaces, n, flops, family: networks of each space, see `sampling.sample`.
        batch_size: crops a step.
        lr: the learning rate after the warm-up, which then falls along half a cosine (section 3.1).
        train_images, test_images: images to cut crops from, of the shapes' two splits.
        seed: of the sample, the data, the weights and the order.
    """

    spaces: tuple[str, ...]
    n: int
    flops: float
    family: str = "X"
    steps: int = 100
    batch_size: int = 32
    lr: float = 0.05
    train_images: int = 300
    test_images: int = 200
    seed: int = 0

    def __post_init__(self):
        for name in ("n", "steps", "batch_size", "train_images", "test_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"lr must be above 0, not {self.lr}")


@dataclass(frozen=True)
class Crops:
    """Images uint8 (N, 3, SIDE, SIDE), RGB, and class indices int64 (N,)."""

    images: torch.Tensor
    classes: torch.Tensor


class Classifier(nn.Module):
    """A backbone, its last stage's mean, a linear layer: (N, 3, H, W) to logits (N, classes)."""

    def __init__(self, arch: Stages, num_classes: int):
        super().__init__()
        last = f"s{len(arch.stage_widths)}"
        self.backbone = build_regnet(arch, norm="BN", out_features=[last])
        self.fc = nn.Linear(arch.stage_widths[-1], num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        (features,) = self.backbone(images).values()
        return self.fc(features.mean(dim=(2, 3)))


def make_crops(split: str, count: int, seed: int = 0) -> Crops:
    """A crop of every shape in the first `count` images of a split of `data.shapes`."""
    images, classes = [], []
    for index in range(count):
        image, kinds, seen = render(seed, split, index)
        image = torch.from_numpy(image).permute(2, 0, 1)
        for k, kind in enumerate(kinds, 1):
            images.append(_crop(image, seen == k))
            classes.append(CLASSES.index(kind))
    return Crops(torch.stack(images), torch.tensor(classes))


def _crop(image: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
    """What a mask covers, on grey, in the middle of a square: uint8 (3, SIDE, SIDE)."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    part = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    covered = torch.from_numpy(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    height, width = covered.shape
    side = round(MARGIN * max(height, width))
    square = torch.full((3, side, side), float(GREY))
    top, left = (side - height) // 2, (side - width) // 2
    square[:, top : top + height, left : left + width] = torch.where(covered, part.float(), GREY)
    resized = F.interpolate(square[None], (SIDE, SIDE), mode="bilinear", antialias=True)
    return resized[0].round().to(torch.uint8)


def train(arch: Stages, crops: Crops, plan: Plan) -> Classifier:
    """Trains a network from random weights: SGD with momentum, half a cosine, as in section 3.1."""
    torch.manual_seed(plan.seed)
    model = Classifier(arch, len(CLASSES)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=plan.lr, momentum=0.9, weight_decay=5e-5)
    warmup = max(1, plan.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / warmup) * (1 + math.cos(math.pi * step / plan.steps)) / 2,
    )
    order = np.random.RandomState(plan.seed)
    for _ in range(plan.steps):
        chosen = torch.from_numpy(order.randint(len(crops.classes), size=plan.batch_size))
        loss = F.cross_entropy(model(_normal(crops.images[chosen])), crops.classes[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def error(model: Classifier, crops: Crops, batch_size: int = 256) -> float:
    """Share of crops whose class is not found, in percent."""
    batches = zip(crops.images.split(batch_size), crops.classes.split(batch_size))
    wrong = sum(
        int((model(_normal(images)).argmax(1) != classes).sum()) for images, classes in batches
    )
    return 100 * wrong / len(crops.classes)


def _normal(images: torch.Tensor) -> torch.Tensor:
    return (images.float() - GREY) / 64


def run(
    plan: Plan, folder: Path, progress: Callable[[Iterable], Iterable] = iter
) -> dict[str, list[dict]]:
    """Trains every network of the plan; continues where an earlier run of the same plan stopped.

    Args:
        folder: it exists; its results.json holds the plan, and each network once it is trained.
        progress: as tqdm: passed the networks that are left.

    Returns:
        By space, for every network its `parameters`, `error` (%), flops, params and acts.

    Raises:
        ValueError: the folder holds another plan's results.
    """
    file = folder / "results.json"
    results = load(plan, file)
    left = []
    for space in plan.spaces:
        archs = sample(space, plan.flops, plan.n, family=plan.family, seed=plan.seed)
        left += [(space, arch) for arch in archs[len(results[space]) :]]
    if left:
        to_learn = make_crops("train", plan.train_images, plan.seed)
        to_test = make_crops("val", plan.test_images, plan.seed)
    for space, arch in progress(left):
        row = {
            "parameters": asdict(arch),
            "depth": sum(arch.stage_depths),
            "error": round(error(train(arch, to_learn, plan), to_test), 3),
            **asdict(arch.complexity()),
        }
        results[space].append(row)
        write_file(file, json.dumps({"plan": asdict(plan), "results": results}, indent=1))
    return load(plan, file)


def load(plan: Plan, file: Path) -> dict[str, list[dict]]:
    """The results of a plan, empty lists if there is no file; ValueError if it is another's."""
    if not file.exists():
        return {space: [] for space in plan.spaces}
    try:
        there = json.loads(file.read_text())
        results, other = there["results"], there["plan"]
    except (ValueError, KeyError, TypeError) as problem:
        raise ValueError(f"{file} holds no results of a study: remove it") from problem
    wanted = json.loads(json.dumps(asdict(plan)))
    for key, value in wanted.items():
        if other.get(key) != value:
            raise ValueError(
                f"{file} holds a study with {key} {other.get(key)}, not {value}: choose another "
                "folder with --output"
            )
    return results


def text(results: dict[str, list[dict]]) -> str:
    """Mean and best errors of each space, and the differences of means from the first space's."""
    errors = {space: [row["error"] for row in rows] for space, rows in results.items()}
    enough = min(map(len, errors.values())) >= edf.ENOUGH
    rows = []
    for space, found in errors.items():
        _, low, high = edf.likely_best([row["depth"] for row in results[space]], found)
        depth = f"{low:.0f} to {high:.0f}" if enough else ""
        rows.append((space, len(found), np.mean(found), min(found), max(found), depth))
    headers = ("space", "networks", "mean error %", "least", "largest", "best depth likely")
    lines = [tabulate(rows, headers, floatfmt=".1f")]
    first, *others = errors
    for other in others:
        mean, low, high = edf.mean_difference(errors[other], errors[first])
        interval = f"95% of bootstrap draws: {low:+.1f} to {high:+.1f}"
        if not enough:
            interval = f"no interval: fewer than {edf.ENOUGH} networks of a space"
        lines.append(
            f"\nmean error of {other} minus that of {first}: {mean:+.1f} points ({interval})"
        )
    return "\n".join(lines)
