"""`detector`: whole detectors at inference, from uint8 images to boxes and pasted masks."""

from argparse import Namespace

import torch
from detectron2.structures import pairwise_iou
from torch import nn

from d2_regnet import model_zoo
from d2_regnet.inference.optimize import optimize_for_inference
from d2_regnet.utils.flops import multiply_adds

from .backbones import variants
from .detectors import images, loaded, random_state
from .timing import compared, figures, take_turns

_SAME_BOX = 0.9  # IoU


def measure(name: str, peers: list[str], args: Namespace) -> list[dict]:
    """Times one model; `ours` is optimized for inference, once for each dtype.

    `gflops` are the multiply-adds of the plain detector for an image, `gflops_done` those that a
    peer carries out: Winograd's convolutions need fewer. `difference` is that of the FPN's features
    from our own plain float32 detector's, `same` the share of its detections that a peer has too.
    """
    state, inputs = random_state(name, args.size), images(args.batch, args.size)
    plain = loaded(name, "unfused", state, args.device).eval()
    expected = _answers(plain, inputs)
    flops = multiply_adds(plain, inputs) / args.batch
    runs, results, done = {}, {}, {}
    for label, peer, dtype in variants(peers, args.dtypes):
        model = loaded(name, peer, state, args.device).eval()
        done[label] = flops
        if peer == "ours":
            model = optimize_for_inference(model, getattr(torch, dtype), args.compile)
            # The two hide what they compute; Winograd is used with neither.
            if not (args.compile or args.cuda_graphs):
                done[label] = multiply_adds(model, inputs) / args.batch
            if args.cuda_graphs:
                tensor = model.preprocess_image(inputs).tensor
                model.backbone = _Replayed(model.backbone, tensor)
        runs[label] = _run(model, inputs, args.amp, args.device)
        difference, same = _agreement(expected, _answers(model, inputs))
        results[label] = {"model": name, "peer": label, "dtype": "float16" if args.amp else dtype}
        results[label] |= {"difference": difference, "same": same}
    timings = take_turns(runs, args, name)
    published = {"ap": model_zoo.rows().get(name, {}).get("box_ap")}
    for label, timing in timings.items():
        results[label] |= figures(timing, args.batch, flops, done[label]) | published
    return compared(results)


def _run(model, inputs, amp, device):
    kind = torch.device(device).type

    @torch.no_grad()
    def run():
        with torch.autocast(kind, torch.float16, enabled=amp):
            return model(inputs)

    return run


class _Replayed(nn.Module):
    """A backbone for images of one size, whose kernels one CUDA graph launches."""

    @torch.no_grad()
    def __init__(self, backbone: nn.Module, image: torch.Tensor):
        super().__init__()
        self.size_divisibility = backbone.size_divisibility
        self.padding_constraints = backbone.padding_constraints
        self._image = image.clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries choose their kernels before the capture
            for _ in range(3):
                backbone(self._image)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._features = backbone(self._image)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        self._image.copy_(image)
        self._graph.replay()
        return self._features


@torch.no_grad()
def _answers(model: nn.Module, inputs: list[dict]) -> tuple[dict, list]:
    """The features of the FPN, and the detections of each image."""
    features = model.backbone(model.preprocess_image(inputs).tensor)
    features = {name: each.float().cpu() for name, each in features.items()}
    return features, [each["instances"].to("cpu") for each in model(inputs)]


def _agreement(expected: tuple[dict, list], found: tuple[dict, list]) -> tuple[float, float]:
    features, detections = expected
    difference = max(
        ((found[0][name] - each).abs().max() / each.abs().max()).item()
        for name, each in features.items()
    )
    total = sum(len(each) for each in detections)
    both = sum(same_detections(*pair) for pair in zip(detections, found[1]))
    return difference, both / total if total else 1.0


def same_detections(expected, found) -> int:
    """How many detections of one image have one of the same class and place among the others."""
    if not len(expected) or not len(found):
        return 0
    overlap = pairwise_iou(expected.pred_boxes, found.pred_boxes) >= _SAME_BOX
    overlap &= expected.pred_classes[:, None] == found.pred_classes
    return int(overlap.any(1).sum())
