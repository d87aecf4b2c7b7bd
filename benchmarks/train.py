"""`train` and `memory`: whole training steps of rows, their time and what they keep."""

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from d2_regnet import model_zoo

from .detectors import classes_of, detector, load, pictures, random_state
from .saved import saved_bytes
from .timing import compared, take_turns

# Weights, gradients and momentum are of float32.
_FLOAT = 4


def measure(
    row: str,
    peers: list[str],
    *,
    size: tuple[int, int],
    batch: int,
    amp: bool,
    device: str,
    rounds: int,
    discard: int,
) -> list[dict]:
    """Times one row's training step: forward, losses, backward and SGD.

    `difference` is that of the first step's total loss from our own unfused detector's.
    """
    state = random_state(row, size)
    inputs = pictures(batch, size, True, classes_of(model_zoo.get_config(row).model))
    expected = _loss(_loaded(row, "unfused", state, device), inputs)
    runs, results = {}, {}
    for peer in peers:
        model = _loaded(row, peer, state, device)
        loss = _loss(model, inputs)
        results[peer] = {"row": row, "peer": peer, "difference": abs(loss - expected) / expected}
        runs[peer] = _step(model, inputs, amp, device)
    timings = take_turns(runs, rounds=rounds, discard=discard, device=device, title=row)
    for peer, timing in timings.items():
        results[peer] |= timing.figures(batch)
    compared([*results.values()])
    return [*results.values()]


def memory(
    row: str, peers: list[str], *, size: tuple[int, int], batch: int, amp: bool, device: str
) -> list[dict]:
    """What one training step of a row takes, in bytes, beside the published memory.

    On a GPU `bytes` is the most that PyTorch had allocated in a step. On a CPU it is counted: what
    the forward pass of one image keeps for the backward pass, times `batch`, and the weights,
    gradients and momentum. The workspace of a GPU's convolutions is not in it.
    """
    classes = classes_of(model_zoo.get_config(row).model)
    results = []
    for peer in peers:
        torch.manual_seed(0)
        model = detector(row, peer).to(device)
        result = {"row": row, "peer": peer, "published": model_zoo.rows()[row]["mem_gb"]}
        if torch.device(device).type == "cuda":
            step = _step(model, pictures(batch, size, True, classes), amp, device)
            step()  # the momentum is there from the second step on
            torch.cuda.reset_peak_memory_stats(device)
            step()
            result["bytes"] = torch.cuda.max_memory_allocated(device)
        else:
            kept = _saved_by_one_picture(model, size, classes)
            result |= {"saved_bytes": kept, "bytes": batch * kept + _state_bytes(model)}
        results.append(result)
        del model
    compared(results, "bytes")
    return results


def _saved_by_one_picture(model, size, classes) -> int:
    inputs = pictures(1, size, True, classes)
    model.train()
    with EventStorage():  # the models log to it
        return saved_bytes(lambda: sum(model(inputs).values()), model.parameters())


def _state_bytes(model: nn.Module) -> int:
    """Weights; and of those that are trained, gradients and momentum."""
    parameters = list(model.parameters())
    trained = sum(each.numel() for each in parameters if each.requires_grad)
    return _FLOAT * (sum(each.numel() for each in parameters) + 2 * trained)


def _loaded(row, peer, state, device):
    model = detector(row, peer)
    load(model, state)
    return model.to(device).train()


def _loss(model, inputs) -> float:
    torch.manual_seed(0)  # anchors and proposals are drawn
    with EventStorage():
        return float(sum(model(inputs).values()).detach())


def _step(model, inputs, amp, device):
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
