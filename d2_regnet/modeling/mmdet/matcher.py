"""Matching anchors and proposals with objects as MMDetection does it."""

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou
from detectron2.utils.memory import retry_if_cuda_oom

# Images are padded to multiples of this, whatever else is in the batch (`pad_size_divisor`).
_PADDING = 32


class MaxIoUMatcher(Matcher):
    """Detectron2's Matcher with the rules of MMDetection's `MaxIoUAssigner`.

    Where an object's best box does not reach the upper threshold it is a match all the same (a low
    quality match), but only from `min_low_quality_iou`, and the box is then matched with that very
    object. In Detectron2 any overlap will do, and the box stays matched with the object that it
    overlaps most. Of several objects with the same best box the last one has it.

    Args:
        thresholds: as in `Matcher`.
        labels: as in `Matcher`.
        min_low_quality_iou: IoU from which an object's best boxes match it; None is never.
        objects_appended: the last boxes are the objects themselves, in their order, as Detectron2's
            `add_ground_truth_to_proposals` leaves them. Each matches itself, also where objects
            coincide, and none counts as an object's best box.
    """

    def __init__(
        self,
        thresholds: list[float],
        labels: list[int],
        min_low_quality_iou: float | None = None,
        objects_appended: bool = False,
    ):
        super().__init__(list(thresholds), list(labels), allow_low_quality_matches=False)
        self.min_low_quality_iou = min_low_quality_iou
        self.objects_appended = objects_appended

    def __call__(self, match_quality_matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """IoUs of M objects with N boxes, (M, N), to the object and the label of each box, (N,)."""
        matches, labels = super().__call__(match_quality_matrix)
        objects, boxes = match_quality_matrix.shape
        if objects == 0 or boxes == 0:
            return matches, labels
        candidates = boxes - objects if self.objects_appended else boxes
        if self.min_low_quality_iou is not None and candidates:
            quality = match_quality_matrix[:, :candidates]
            best = quality.max(dim=1, keepdim=True).values
            taken = (quality == best) & (best >= self.min_low_quality_iou)
            # argmax finds the first, so look from the last object on.
            last = objects - 1 - taken.flip(0).to(torch.uint8).argmax(dim=0)
            chosen = taken.any(dim=0).nonzero().squeeze(1)
            matches[chosen], labels[chosen] = last[chosen], 1
        if self.objects_appended:
            matches[candidates:] = torch.arange(objects, device=matches.device)
            labels[candidates:] = 1
        return matches, labels


def match_anchors(
    matcher: Matcher,
    anchors: Boxes,
    gt_boxes: Boxes,
    image_size: tuple[int, int],
    boundary_thresh: float = -1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Matches the anchors of one image, of which it leaves out those that are not the image's.

    These are the anchors that lie in the padding which only a larger image in the batch asks
    for. Detectron2 takes them for background, and it matches anchors across the image's edge
    before it leaves them out.

    Args:
        matcher: gives labels -1 (ignored), 0 (background) and 1 (object).
        anchors: R boxes, x1 y1 x2 y2 in pixels of the padded batch.
        gt_boxes: the image's objects.
        image_size: height and width of the image before padding.
        boundary_thresh: leave out anchors more than this many pixels across the image's edge;
            negative keeps them.

    Returns:
        The matched object (R,) int64 and the label (R,) int8 of each anchor; -1 for those left out.
    """
    height, width = (-(-side // _PADDING) * _PADDING for side in image_size)
    centers = anchors.get_centers()
    # Centers are multiples of the stride; half a pixel keeps rounding errors out.
    usable = (centers[:, 0] < width - 0.5) & (centers[:, 1] < height - 0.5)
    if boundary_thresh >= 0:
        usable &= anchors.inside_box(image_size, boundary_thresh)
    iou = retry_if_cuda_oom(pairwise_iou)(gt_boxes, anchors[usable])
    found, found_labels = retry_if_cuda_oom(matcher)(iou)
    matches = torch.zeros(len(anchors), dtype=torch.int64, device=usable.device)
    labels = torch.full((len(anchors),), -1, dtype=torch.int8, device=usable.device)
    matches[usable] = found.to(matches.device)
    labels[usable] = found_labels.to(labels.device)
    return matches, labels
