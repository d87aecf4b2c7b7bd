"""A whole detector as one function of one tensor, which PyTorch's tracer can follow.

What an image goes through before and after Detectron2's model is here: the resizing, the order of
the colours, the boxes' way back into the image's own pixels, and the masks. Nothing of it may
turn a size into a Python number, which the tracer would write down as a constant.
"""

import torch
from detectron2.export import TracingAdapter
from detectron2.layers import move_device_like, shapes_to_tensor
from detectron2.modeling import detector_postprocess
from detectron2.modeling.meta_arch import RetinaNet
from torch import nn

from .resizing import ShortestEdge, resize


def traceable(
    model: nn.Module, shortest_edge: ShortestEdge | None, input_format: str, example: torch.Tensor
) -> TracingAdapter:
    """The module to trace: a uint8 RGB image (height, width, 3) to its detections.

    Args:
        model: a detector in evaluation mode.
        shortest_edge: how an image is resized for the model; None if it is not.
        input_format: RGB or BGR, the order in which the model takes the colours.
        example: an image.

    Returns:
        A module to be called on `example`, which gives what `exporter` writes under "outputs".
    """

    def detect(model, image):
        size = shapes_to_tensor([image.shape[0], image.shape[1]])
        x = image if shortest_edge is None else resize(image, shortest_edge.output_size(size))
        x = x.float().permute(2, 0, 1)
        x = x.flip(0) if input_format == "BGR" else x
        x = move_device_like(x, model.pixel_mean)
        return _detected(model, x, size)

    return TracingAdapter(model, example, detect)


def _detected(model, x, size):
    height, width = size.unbind()
    if isinstance(model, RetinaNet):
        # Not model(...), by which an OptimizedRetinaNet asks its optimized copy.
        inputs = [{"image": x, "height": height, "width": width}]
        found = RetinaNet.forward(model, inputs)[0]["instances"]
        return found.pred_boxes.tensor, found.scores, found.pred_classes
    found = model.inference([{"image": x}], do_postprocess=False)[0]
    has_masks = found.has("pred_masks")
    if has_masks:  # under another name, or Detectron2 would paste them itself
        found.mask_probabilities = found.pred_masks[:, 0]
        found.remove("pred_masks")
    found = detector_postprocess(found, height, width)
    boxes = found.pred_boxes.tensor
    if not has_masks:
        return boxes, found.scores, found.pred_classes
    paste = torch.jit.script(paste_masks)  # a trace would unroll its loop
    masks = paste(found.mask_probabilities, boxes, size)
    return boxes, found.scores, found.pred_classes, masks


def paste_masks(masks: torch.Tensor, boxes: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """What Detectron2's `paste_masks_in_image` answers, at a cost that a file can bear.

    Traced, Detectron2's copies all masks once for each of them. Its bilinear sampling, zero outside
    of the mask, is separable: two small products of matrices for each mask, one after another.

    Args:
        masks: probabilities (N, M, M).
        boxes: (N, 4), x0 y0 x1 y1 in the image's pixels, of positive width and height.
        size: the image's height and width, int64 (2,).

    Returns:
        bool (N, height, width), True where the probability is 0.5 or more.
    """
    height, width = int(size[0]), int(size[1])
    side = masks.size(1)
    cells = torch.arange(side, device=masks.device)
    rows = torch.arange(height, device=masks.device) + 0.5
    columns = torch.arange(width, device=masks.device) + 0.5
    pasted = [torch.zeros((0, height, width), dtype=torch.bool, device=masks.device)]
    for i in range(masks.size(0)):
        x0, y0, x1, y1 = boxes[i].unbind()
        y = (rows - y0) / (y1 - y0) * side - 0.5
        x = (columns - x0) / (x1 - x0) * side - 0.5
        down = (1 - (y[:, None] - cells).abs()).clamp(min=0)
        across = (1 - (x[:, None] - cells).abs()).clamp(min=0)
        pasted.append((down @ masks[i] @ across.t() >= 0.5)[None])
    return torch.cat(pasted)
