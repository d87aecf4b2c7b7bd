"""The region proposal network as MMDetection trains it."""

import torch
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, Instances

from d2_regnet.modeling.global_batch import mean_over_processes, random_numbers_of

from .matcher import MaxIoUMatcher, match_anchors


@PROPOSAL_GENERATOR_REGISTRY.register()
class MMDetRPN(RPN):
    """Detectron2's RPN with MMDetection's labels and divisor of the losses.

    Proposals are the same. In training, an object's best anchor is a match from
    `MODEL.RPN.MIN_LOW_QUALITY_IOU` on only (`MaxIoUMatcher`), anchors in a larger image's padding
    and, with `anchor_boundary_thresh` of 0 or more, across the edge are left out before they are
    matched (`match_anchors`), and the losses are divided by the anchors that were sampled.
    """

    @classmethod
    def from_config(cls, cfg, input_shape):
        node = cfg.MODEL.RPN
        matcher = MaxIoUMatcher(node.IOU_THRESHOLDS, node.IOU_LABELS, node.MIN_LOW_QUALITY_IOU)
        return {**super().from_config(cfg, input_shape), "anchor_matcher": matcher}

    @torch.no_grad()
    def label_and_sample_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]):
        """Per image, as in `RPN`: labels (R,) in {-1, 0, 1} and matched objects' boxes (R, 4)."""
        anchors = Boxes.cat(anchors)
        labels, boxes = [], []
        for image, instances in enumerate(gt_instances):
            gt_boxes = instances.gt_boxes
            matches, found = match_anchors(
                self.anchor_matcher,
                anchors,
                gt_boxes,
                instances.image_size,
                self.anchor_boundary_thresh,
            )
            with random_numbers_of(image):
                positive, negative = subsample_labels(
                    found, self.batch_size_per_image, self.positive_fraction, 0
                )
            sampled = torch.full_like(found, -1)
            sampled[positive], sampled[negative] = 1, 0
            labels.append(sampled)
            boxes.append(
                gt_boxes.tensor[matches] if len(gt_boxes) else torch.zeros_like(anchors.tensor)
            )
        return labels, boxes

    def losses(self, anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        """As in `RPN`, divided by the sampled anchors instead of by how many were asked for."""
        losses = super().losses(
            anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes
        )
        # MMDetection counts at least one positive and one negative in each image.
        counts = torch.stack(
            [torch.stack([labels == 1, labels == 0]).sum(1) for labels in gt_labels]
        )
        divisor = mean_over_processes(counts.clamp(min=1).sum())
        scale = self.batch_size_per_image * len(gt_labels) / divisor
        return {name: loss * scale for name, loss in losses.items()}
