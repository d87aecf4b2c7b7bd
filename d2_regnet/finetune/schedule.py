"""How long, how fast and with how many images at once: pure functions of sizes."""

import math
from dataclasses import dataclass

from d2_regnet.checkpoint.fitting import BACKBONE, DETECTOR, SCRATCH

__all__ = ["Plan", "batch_size", "picture_bytes", "plan"]

GIB = 2**30
_LARGEST_BATCH = 16
_LARGEST_ON_CPU = 4  # more images at once are not faster there
# Passes over the data, the fewest images shown, and the factor of the recipe's learning rate.
_EFFORT = {DETECTOR: (12, 4000, 0.5), BACKBONE: (12, 8000, 1.0), SCRATCH: (36, 12000, 1.0)}
_EVALUATIONS = 5


@dataclass(frozen=True)
class Plan:
    """
    Attributes:
        batch: images a step.
        steps, warmup, eval_period: in steps.
        lr: after the warm-up.
        passes: over the training images.
    """

    batch: int
    steps: int
    warmup: int
    eval_period: int
    lr: float
    passes: float


def plan(pictures: int, batch: int, start: str, base_lr: float, base_batch: int) -> Plan:
    """The schedule.

    From a trained detector: 12 passes, a 1x schedule's, but at least 4,000 images shown, at half
    the recipe's learning rate; from a backbone: the recipe's rate and at least 8,000; from
    random values: 36 passes and at least 12,000. The rate follows the batch size by the linear
    rule (https://arxiv.org/abs/1706.02677); the warm-up takes a twentieth of the steps, 10 to 500.

    Args:
        images: in the training set.
        batch: images a step.
        start: `DETECTOR`, `BACKBONE` or `SCRATCH` of `checkpoint.fitting`.
        base_lr, base_batch: the recipe's.
    """
    passes, fewest, factor = _EFFORT[start]
    steps = math.ceil(max(passes * pictures, fewest) / batch)
    return Plan(
        batch=batch,
        steps=steps,
        warmup=min(500, max(10, steps // 20)),
        eval_period=math.ceil(steps / _EVALUATIONS),
        lr=factor * base_lr * batch / base_batch,
        passes=steps * batch / pictures,
    )


def picture_bytes(activations: int, cascade: bool = False) -> int:
    """About how much memory one image of a training step takes, in bytes.

    Fitted to the memory that MMDetection published for its RegNet models (two images of 800 x 1333
    a GPU), to within a fifth: 1.7 floats for each output of the backbone's convolutions, and
    0.8 GiB for the FPN and the heads; 0.9 GiB more for a cascade's.

    Args:
        activations: outputs of the backbone's convolutions for the image.
        cascade: whether there are three box and mask heads.
    """
    return int(1.7 * 4 * activations + (0.8 + 0.9 * cascade) * GIB)


def batch_size(one: int, memory: int, pictures: int, on_gpu: bool) -> int:
    """Images a step: a power of two, up to 16 on a GPU and 4 on a CPU.

    Args:
        one: bytes that an image takes.
        memory: bytes that there are; three quarters are used.
        images: in the training set, of which a step takes an eighth at most.
        on_gpu: whether it is a GPU's memory.
    """
    most = min(_LARGEST_BATCH if on_gpu else _LARGEST_ON_CPU, 0.75 * memory / one, pictures / 8)
    return 2 ** max(0, math.floor(math.log2(max(most, 1))))
