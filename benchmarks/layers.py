"""`layers`: what bounds the layers of a detector that have most of its operations."""

from argparse import Namespace

import torch
from torch import nn

from d2_regnet.inference.optimize import optimize_for_inference
from d2_regnet.utils.flops import multiply_adds

from .detectors import images, loaded, random_state
from .timing import figures, take_turns

_KINDS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def measure(name: str, peers: list[str], args: Namespace) -> list[dict]:
    """Times the convolutions and linear layers of one model, optimized for inference, each alone.

    Those `args.layers` with the most multiply-adds. Layers that do the same are one: `times` says
    how often it is called for the images, and `share` how much of all multiply-adds that is.
    `moved` are the bytes of what goes in, of what comes out and of the weights; all other figures
    are of one call.
    """
    plain = loaded(name, "unfused", random_state(name, args.size), args.device).eval()
    inputs = images(args.batch, args.size)
    total, modules = multiply_adds(plain, inputs), dict(plain.named_modules())
    optimized = {
        dtype: dict(optimize_for_inference(plain, getattr(torch, dtype)).named_modules())
        for dtype in args.dtypes
    }
    results = []
    for flops, (kind, shape), names in _dominant(modules, _called(plain, inputs), args.layers):
        same = {"model": name, "layer": kind, "on": "x".join(map(str, shape)), "times": len(names)}
        same |= {"share": flops * len(names) / total, "gflops": flops / 1e9}
        layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        runs, own = {}, {}
        for dtype in args.dtypes:
            layer = optimized[dtype][names[0]]
            x = torch.randn(shape).to(args.device, getattr(torch, dtype), memory_format=layout)
            runs[dtype] = torch.no_grad()(lambda layer=layer, x=x: layer(x))
            tensors = (x, runs[dtype](), modules[names[0]].weight)
            own[dtype] = {
                "peer": "ours" if dtype == "float32" else f"ours {dtype}",
                "dtype": dtype,
                "gflops_done": multiply_adds(layer, x) / 1e9,
                "moved": sum(each.numel() for each in tensors) * x.element_size(),
            }
        timings = take_turns(runs, args, kind)
        for dtype, timing in timings.items():
            measured = figures(timing, 1)
            del measured["images_per_second"]
            rate = own[dtype]["gflops_done"] / measured["seconds"]
            results.append(same | own[dtype] | measured | {"gflops_per_second": rate})
    return results


def _dominant(modules: dict, called: dict, count: int) -> list[tuple]:
    """Multiply-adds of one call, what `_called` tells, and the names, most multiply-adds first."""
    found = []
    for key, names in called.items():
        layer = modules[names[0]]
        x = torch.zeros(key[1], device=layer.weight.device)
        found.append((multiply_adds(layer, x), key, names))
    return sorted(found, key=lambda each: each[0] * len(each[2]), reverse=True)[:count]


@torch.no_grad()
def _called(model: nn.Module, inputs: list[dict]) -> dict[tuple, list[str]]:
    """The names of the layers that a forward pass calls, by what they do and to which shape."""
    called = {}

    def noted(name):
        def note(layer, args):
            called.setdefault((_kind(layer), tuple(args[0].shape)), []).append(name)

        return note

    hooks = [
        module.register_forward_pre_hook(noted(name))
        for name, module in model.named_modules()
        if isinstance(module, _KINDS)
    ]
    model(inputs)
    for hook in hooks:
        hook.remove()
    return called


def _kind(layer: nn.Module) -> str:
    """A layer in words: "3x3, 256 to 256"."""
    if isinstance(layer, nn.Linear):
        return f"linear, {layer.in_features} to {layer.out_features}"
    words = ["x".join(map(str, layer.kernel_size)), f"{layer.in_channels} to {layer.out_channels}"]
    if isinstance(layer, nn.ConvTranspose2d):
        words.append("transposed")
    if layer.stride[0] > 1:
        words.append(f"stride {layer.stride[0]}")
    if layer.groups > 1:
        words.append(f"{layer.groups} groups")
    return ", ".join(words)
