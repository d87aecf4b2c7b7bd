"""`train` and `memory`: whole training steps of models, their time and what they keep."""

from argparse import Namespace

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from d2_regnet import model_zoo

from .detectors import classes_of, detector, images, loaded, random_state
from .saved import saved_bytes
from .timing import compared, figures, take_turns

# Weights, gradients and momentum are of float32.
_FLOAT = 4


def measure(name: str, peers: list[str], args: Namespace) -> list[dict]:
    """Times one model's training step: forward, losses, backward and SGD.

    `difference` is that of the first step's total loss from our own unfused detector's.
    """
    state = random_state(name, args.size)
    inputs = images(args.batch, args.size, True, classes_of(model_zoo.get_config(name).model))

    def loss(model):
        torch.manual_seed(0)  # anchors and proposals are drawn
        with EventStorage():
            return float(sum(model(inputs).values()).detach())

    expected = loss(loaded(name, "unfused", state, args.device).train())
    runs, results = {}, {}
    for peer in peers:
        model = loaded(name, peer, state, args.device).train()
        difference = abs(loss(model) - expected) / expected
        results[peer] = {"model": name, "peer": peer, "difference": difference}
        runs[peer] = training_step(model, inputs, args.amp, args.device)
    timings = take_turns(runs, args, name)
    for peer, timing in timings.items():
        results[peer] |= figures(timing, args.batch)
    return compared(results)


def memory(name: str, peers: list[str], args: Namespace) -> list[dict]:
    """What one training step of a model takes, in bytes, beside the published memory.

    On a GPU `bytes` is the most that PyTorch had allocated in a step. On a CPU it is counted: what
    the forward pass of one image keeps for the backward pass, times `args.batch`, and the weights,
    gradients and momentum. The workspace of a GPU's convolutions is not in it.
    """
    classes = classes_of(model_zoo.get_config(name).model)
    results = {}
    for peer in peers:
        torch.manual_seed(0)
        model = detector(name, peer).to(args.device)
        result = {"model": name, "peer": peer, "published": model_zoo.rows()[name]["mem_gb"]}
        if torch.device(args.device).type == "cuda":
            inputs = images(args.batch, args.size, True, classes)
            step = training_step(model, inputs, args.amp, args.device)
            step()  # the momentum is there from the second step on
            torch.cuda.reset_peak_memory_stats(args.device)
            step()
            result["bytes"] = torch.cuda.max_memory_allocated(args.device)
        else:
            kept = _saved_by_one_image(model, args.size, classes)
            result |= {"saved_bytes": kept, "bytes": args.batch * kept + _state_bytes(model)}
        results[peer] = result
        del model
    return compared(results, "bytes")


def _saved_by_one_image(model, size, classes) -> int:
    inputs = images(1, size, True, classes)
    model.train()
    with EventStorage():  # the models log to it
        return saved_bytes(lambda: sum(model(inputs).values()), model.parameters())


def _state_bytes(model: nn.Module) -> int:
    """Weights; and of those that are trained, gradients and momentum."""
    parameters = list(model.parameters())
    trained = sum(each.numel() for each in parameters if each.requires_grad)
    return _FLOAT * (sum(each.numel() for each in parameters) + 2 * trained)


def training_step(model: nn.Module, inputs: list[dict], amp: bool, device: str):
    optimizer = torch.optim.SGD(
        [each for each in model.parameters() if each.requires_grad], lr=1e-6, momentum=0.9
    )
    kind = torch.device(device).type
    scaler = torch.amp.GradScaler(kind, enabled=amp)
    model.train()

    def step():
        torch.manual_seed(0)
        with EventStorage(), torch.autocast(kind, torch.float16, enabled=amp):
            loss = sum(model(inputs).values())
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step
