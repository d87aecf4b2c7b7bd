"""RetinaNet as MMDetection trains and tests it."""

import torch
from detectron2.layers import batched_nms, cat
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.structures import Boxes, Instances

from d2_regnet.modeling.global_batch import mean_over_processes

from .matcher import MaxIoUMatcher, match_anchors


@META_ARCH_REGISTRY.register()
class MMDetRetinaNet(RetinaNet):
    """Detectron2's RetinaNet with MMDetection's labels, divisor of the losses and clipping.

    In training, an object's best anchor is matched with that object (`MaxIoUMatcher`), anchors in
    a larger image's padding are left out (`match_anchors`), and the losses are divided by this
    batch's matched anchors, where Detectron2 divides by a running mean that starts at 100. In
    inference, boxes are clipped to the image before and not after non-maximum suppression.

    The anchors of a cell are Detectron2's, size by size; MMDetection's are ratio by ratio, and
    `checkpoint.mmdet` reorders the channels of the head.
    """

    @classmethod
    def from_config(cls, cfg):
        node = cfg.MODEL.RETINANET
        matcher = MaxIoUMatcher(node.IOU_THRESHOLDS, node.IOU_LABELS, node.MIN_LOW_QUALITY_IOU)
        return {**super().from_config(cfg), "anchor_matcher": matcher}

    @torch.no_grad()
    def label_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]):
        """Per image, as in `RetinaNet`: classes (R,), -1 ignored, and objects' boxes (R, 4)."""
        anchors = Boxes.cat(anchors)
        classes, boxes = [], []
        for instances in gt_instances:
            matches, labels = match_anchors(
                self.anchor_matcher, anchors, instances.gt_boxes, instances.image_size
            )
            found = torch.full_like(matches, self.num_classes)
            found[labels == -1] = -1
            positive = labels == 1
            found[positive] = instances.gt_classes[matches[positive]]
            matched = torch.zeros_like(anchors.tensor)
            matched[positive] = instances.gt_boxes.tensor[matches[positive]]
            classes.append(found)
            boxes.append(matched)
        return classes, boxes

    def losses(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        """As in `RetinaNet`, divided by this batch's matched anchors, at least one an image."""
        self.loss_normalizer = 100.0  # as at first: its rounding must not depend on former batches
        losses = super().losses(anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes)
        positive = [((labels >= 0) & (labels != self.num_classes)).sum() for labels in gt_labels]
        # The running mean that the base class has just divided by.
        divisor = mean_over_processes(torch.stack(positive).clamp(min=1).sum())
        scale = self.loss_normalizer / divisor
        return {name: loss * scale for name, loss in losses.items()}

    def inference_single_image(
        self,
        anchors: list[Boxes],
        box_cls: list[torch.Tensor],
        box_delta: list[torch.Tensor],
        image_size: tuple[int, int],
    ) -> Instances:
        """As in `RetinaNet`: per level anchors, scores (R, K) and deltas (R, 4) to detections."""
        found = [
            self._best(*level, image_size)
            for level in zip(anchors, box_cls, box_delta, strict=True)
        ]
        boxes, scores, classes = (cat(part) for part in zip(*found))
        boxes = Boxes(boxes)
        boxes.clip(image_size)
        inside = boxes.nonempty()
        boxes, scores, classes = boxes[inside], scores[inside], classes[inside]
        keep = batched_nms(boxes.tensor, scores, classes, self.test_nms_thresh)
        keep = keep[: self.max_detections_per_image]
        return Instances(
            image_size, pred_boxes=boxes[keep], scores=scores[keep], pred_classes=classes[keep]
        )

    def _best(self, anchors, scores, deltas, image_size):
        """Boxes, scores and classes of one level's best candidates above the threshold."""
        candidates = (scores > self.test_score_thresh).nonzero()
        scores, order = scores[candidates[:, 0], candidates[:, 1]].sort(descending=True)
        index, classes = candidates[order[: self.test_topk_candidates]].unbind(1)
        boxes = self.box2box_transform.apply_deltas(deltas[index], anchors.tensor[index])
        return boxes, scores[: self.test_topk_candidates], classes
