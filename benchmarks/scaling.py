"""Where communication bounds data-parallel training: gradients, links, and the time of a step.

DistributedDataParallel adds up the gradients of all GPUs during the backward pass. Nothing is
lost while that takes no longer than the backward pass; for what takes longer, each step waits.
"""

from math import ceil

from torch import nn

# Bytes a second in one direction, of the slowest link on the ring around all GPUs: within a
# machine NVLink of an A100; between machines the network adapter of each, which its GPUs share.
LINKS = {
    "NVLink": 300e9,
    "InfiniBand 400 Gb/s": 400e9 / 8,
    "InfiniBand 100 Gb/s": 100e9 / 8,
    "Ethernet 25 Gb/s": 25e9 / 8,
}
LATENCY = 5e-6  # seconds from one GPU to the next; an assumption
BUCKET = 25 * 2**20  # bytes that DistributedDataParallel sends at once
BACKWARD = 2 / 3  # of a step: twice the multiply-adds of the forward pass

# Detectron2's model zoo: Mask R-CNN R50-FPN, 8 V100, 2 images each, seconds a step; and what
# `flops.count_flops` counts of that model, multiply-adds an image.
REFERENCE_SECONDS = 0.261
REFERENCE_FLOPS = 249_714_903_808


def gradient_bytes(model: nn.Module, bytes_each: int = 4) -> int:
    """What a GPU sends, once around: the gradients of all parameters that are trained.

    Args:
        model: on any device, also `meta`.
        bytes_each: of a number; 2 with `train.ddp.fp16_compression`.
    """
    return bytes_each * sum(p.numel() for p in model.parameters() if p.requires_grad)


def step_seconds(flops: float, speed: float = 1.0) -> float:
    """Computation of a step of two images, in proportion to the reference's multiply-adds.

    Args:
        flops: multiply-adds an image.
        speed: of the GPU, in V100s at float32.
    """
    return REFERENCE_SECONDS * flops / REFERENCE_FLOPS / speed


def ring_seconds(size: int, gpus: int, bandwidth: float, latency: float = LATENCY) -> float:
    """A ring all-reduce: each GPU sends 2 (N - 1) / N of the bytes, in 2 (N - 1) turns a bucket.

    Args:
        size: in bytes.
        gpus: N, at least 1.
        bandwidth: of the slowest link, bytes a second.
        latency: seconds a turn.
    """
    turns = 2 * (gpus - 1)
    return turns / gpus * size / bandwidth + turns * latency * ceil(size / BUCKET)


def efficiency(compute: float, communicate: float) -> float:
    """The share of a step, 0 to 1, in which GPUs compute, all but the wait for gradients hidden.

    Args:
        compute: seconds of forward and backward.
        communicate: seconds of the all-reduce, which goes on during the backward pass.
    """
    return compute / (compute + max(0.0, communicate - BACKWARD * compute))


def hiding_bandwidth(size: int, gpus: int, compute: float, latency: float = LATENCY) -> float:
    """The bandwidth, in bytes a second, from which on the all-reduce is hidden; inf: none is."""
    turns = 2 * (gpus - 1)
    left = BACKWARD * compute - turns * latency * ceil(size / BUCKET)
    return turns / gpus * size / left if left > 0 else float("inf")
