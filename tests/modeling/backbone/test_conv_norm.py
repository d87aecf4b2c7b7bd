"""Fused convolutions and norms against Detectron2's blocks, which compute them one by one."""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_regnet import build_regnet
from d2_regnet.modeling import EvalBN
from d2_regnet.modeling.backbone.conv_norm import conv_norm

STAGES = ["s1", "s2", "s3", "s4"]


def randomize(body):
    for module in body.modules():
        if hasattr(module, "running_var"):
            for tensor, low, high in (
                (module.weight.data, 0.5, 1.2),
                (module.bias.data, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                tensor.uniform_(low, high)


def pair(arch, dtype=torch.float32, **options):
    """The same backbone twice: unfused and fused."""
    unfused = build_regnet(arch, fuse_conv_norm=False, **options)
    randomize(unfused)
    fused = build_regnet(arch, **options)
    fused.load_state_dict(unfused.state_dict())
    return unfused.to(dtype), fused.to(dtype)


def gradients(body, x, autocast=None):
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        outputs = body(x)
    sum(
        out.float().square().mean() if autocast else out.square().mean() for out in outputs.values()
    ).backward()
    named = {name: p.grad for name, p in body.named_parameters()}
    return outputs, {"input": x.grad, **named}


def assert_same(unfused, fused, tolerance):
    for name, expected in unfused.items():
        actual = fused[name]
        assert (actual is None) == (expected is None), name
        if expected is not None:
            error = (actual - expected).detach().norm() / expected.detach().norm()
            assert error < tolerance, (name, float(error))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(
    "options",
    [
        {"norm": "EvalBN"},
        {"norm": "FrozenBN"},
        {"norm": "EvalBN", "freeze_at": 2},
        {"norm": "BN", "freeze_at": 3},
        {"norm": "EvalBN", "activation_checkpoint": ["s2", "s4"]},
        {"norm": "EvalBN", "deform_stages": ["s3"]},
    ],
    ids=str,
)
def test_outputs_and_gradients_equal_the_unfused(options, dtype, tolerance, seed):
    if dtype == torch.float64 and "deform_stages" in options:
        tolerance = 1e-5  # the deformable convolution computes in float32
    if dtype == torch.float32 and options["norm"] == "BN":
        tolerance = (
            1e-4  # batch statistics of 12 numbers, after the frozen stages, enlarge rounding
        )
    unfused, fused = pair("RegNetY-200MF", dtype, **options)
    x = torch.randn(2, 3, 64, 96, dtype=dtype)
    (out_a, grad_a), (out_b, grad_b) = gradients(unfused, x), gradients(fused, x)
    assert_same(out_a, out_b, tolerance)
    assert_same(grad_a, grad_b, tolerance)


def assert_as_close_under_autocast(unfused, fused, x):
    """bfloat16 takes the fused no further from float32 than the unfused."""
    _, exact = gradients(unfused, x)
    unfused.zero_grad(), fused.zero_grad()
    out_a, low_a = gradients(unfused, x, torch.bfloat16)
    out_b, low_b = gradients(fused, x, torch.bfloat16)
    assert all(out.dtype == torch.bfloat16 for out in out_b.values())
    for name, value in exact.items():
        if value is None:
            assert low_b[name] is None, name
            continue
        error_a, error_b = ((low[name] - value).norm() / value.norm() for low in (low_a, low_b))
        assert low_b[name].dtype == torch.float32, name
        assert error_b < max(1.5 * error_a, 0.05), name
    torch.testing.assert_close(out_b["s1"], out_a["s1"], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("options", [{}, {"freeze_at": 2, "activation_checkpoint": ["s2", "s3"]}])
def test_under_autocast(options, seed):
    unfused, fused = pair("RegNetX-200MF", norm="EvalBN", **options)
    assert_as_close_under_autocast(unfused, fused, torch.randn(2, 3, 64, 96))


def test_with_distributed_data_parallel():
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launch, __file__], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr


def in_each_of_two_processes():
    """What `test_with_distributed_data_parallel` runs."""
    dist.init_process_group("gloo")
    for norm, dtype, tolerance in (
        ("EvalBN", torch.float32, 1e-5),
        ("EvalBN", torch.float64, 1e-10),
        ("FrozenBN", torch.float64, 1e-10),
    ):
        for options in ({}, {"freeze_at": 2, "activation_checkpoint": ["s2", "s3"]}):
            torch.manual_seed(0)
            bodies = pair("RegNetX-200MF", dtype, norm=norm, **options)
            unfused, fused = (DistributedDataParallel(body) for body in bodies)
            torch.manual_seed(1 + dist.get_rank())
            x = torch.randn(2, 3, 64, 96, dtype=dtype)
            (out_a, grad_a), (out_b, grad_b) = gradients(unfused, x), gradients(fused, x)
            assert_same(out_a, out_b, tolerance)
            assert_same(grad_a, grad_b, tolerance)
            for name, parameter in fused.named_parameters():  # the mean of both processes
                if parameter.requires_grad:
                    others = parameter.grad.clone()
                    dist.broadcast(others, src=0)
                    assert torch.equal(others, parameter.grad), name
            if dtype == torch.float32:
                unfused.zero_grad(), fused.zero_grad()
                assert_as_close_under_autocast(unfused, fused, x)
    dist.destroy_process_group()


def test_without_gradients_and_traced(seed):
    unfused, fused = pair("RegNetX-200MF", norm="FrozenBN")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_same(unfused(x), fused(x), 1e-5)
        traced = torch.jit.trace(fused, x, strict=False)
    assert "Python" not in str(traced.inlined_graph)  # can be run and exported without our code
    assert_same(unfused(x), traced(x), 1e-5)


def test_only_frozen_statistics_are_fused(seed):
    conv = nn.Conv2d(4, 6, 1, bias=False)
    x = torch.randn(2, 4, 3, 3)
    calls = []
    for norm in (nn.BatchNorm2d(6), nn.GroupNorm(2, 6), EvalBN(6), FrozenBatchNorm2d(6)):
        norm.register_forward_hook(lambda module, *_: calls.append(type(module)))
        conv_norm(conv, norm, x)
    assert calls == [nn.BatchNorm2d, nn.GroupNorm]


def test_parameters_and_gradients_keep_their_layout(seed):
    """Whatever layout the fused path computes in, checkpoints and optimizers do not see it."""
    body = build_regnet("RegNetX-200MF", norm="EvalBN")
    gradients(body, torch.randn(1, 3, 32, 32))
    for name, parameter in body.named_parameters():
        assert parameter.is_contiguous() and parameter.grad.is_contiguous(), name


def test_convolution_outputs_are_not_kept(seed):
    x = torch.randn(1, 3, 128, 160)
    kept = {}
    for label, norm, fuse in (
        ("fused", "EvalBN", True),
        ("unfused", "EvalBN", False),
        ("frozen", "FrozenBN", False),
    ):
        body = build_regnet("RegNetX-400MF", norm=norm, fuse_conv_norm=fuse)
        own = {t.untyped_storage().data_ptr() for t in body.state_dict().values()}
        sizes = {}

        def pack(tensor, own=own, sizes=sizes):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = body(x)
        kept[label] = sum(sizes.values())
        del outputs
    assert kept["fused"] <= 0.55 * kept["unfused"]
    assert kept["fused"] <= 1.05 * kept["frozen"]


if __name__ == "__main__":
    in_each_of_two_processes()
