"""Cascade heads with one mask head per stage."""

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    build_mask_head,
    select_foreground_proposals,
)
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from d2_regnet.modeling.global_batch import sample_each, share_losses

from .matcher import MaxIoUMatcher


@ROI_HEADS_REGISTRY.register()
class CascadeMaskROIHeads(CascadeROIHeads):
    """Cascade Mask R-CNN (https://arxiv.org/abs/1906.09756) as MMDetection's `CascadeRoIHead`.

    Detectron2's CascadeROIHeads has one mask head after the last stage. Here every stage has one,
    and in training every stage

    - samples anew, from the previous stage's boxes (without those that were objects) and objects;
    - weighs its losses by `stage_loss_weights`, and does not scale gradients.

    In inference the class scores are the softmax of the stages' mean logits, where Detectron2
    averages probabilities, and the masks are the mean of the stages' probabilities.
    """

    @configurable
    def __init__(
        self,
        *,
        mask_heads: list[nn.Module] | None = None,
        stage_loss_weights: tuple[float, ...] = (1.0, 0.5, 0.25),
        **kwargs,
    ):
        """
        Args:
            mask_heads: one for each stage; None if masks are not predicted.
            stage_loss_weights: what all losses of each stage are multiplied by.
            kwargs: those of Detectron2's `CascadeROIHeads`.

        Raises:
            ValueError: not as many mask heads or weights as stages, or a keypoint head.
        """
        if mask_heads is not None:
            kwargs["mask_head"] = nn.ModuleList(mask_heads)
        super().__init__(**kwargs)
        stages = self.num_cascade_stages
        if len(stage_loss_weights) != stages:
            raise ValueError(f"{len(stage_loss_weights)} stage_loss_weights for {stages} stages")
        if self.mask_on and (mask_heads is None or len(mask_heads) != stages):
            raise ValueError(f"mask_heads: {len(mask_heads or ())} for {stages} stages")
        if self.keypoint_on:
            raise ValueError("CascadeMaskROIHeads predicts boxes and masks, not keypoints")
        self.stage_loss_weights = tuple(stage_loss_weights)

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        node = cfg.MODEL.ROI_BOX_CASCADE_HEAD
        ret["stage_loss_weights"] = node.STAGE_LOSS_WEIGHTS
        ret["proposal_matchers"] = [
            MaxIoUMatcher([iou], [0, 1], objects_appended=True) for iou in node.IOUS
        ]
        if ret.pop("mask_head", None) is not None:
            side = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
            channels = input_shape[cfg.MODEL.ROI_HEADS.IN_FEATURES[0]].channels
            shape = ShapeSpec(channels=channels, height=side, width=side)
            ret["mask_heads"] = [build_mask_head(cfg, shape) for _ in node.IOUS]
        return ret

    def label_and_sample_proposals(self, proposals, targets):
        """As in `ROIHeads`, the same for any number of processes."""
        return sample_each(super().label_and_sample_proposals, proposals, targets)

    def forward(self, images, features, proposals, targets=None):
        """See Detectron2's `ROIHeads.forward`; losses are named `loss_cls_stage0` and so on."""
        del images
        if not self.training:
            return self.forward_with_given_boxes(features, self._detect(features, proposals)), {}
        proposals = [_marked(each, each.proposal_boxes, False) for each in proposals]
        targets = [_marked(each, each.gt_boxes, True) for each in targets]
        losses = {}
        for stage, weight in enumerate(self.stage_loss_weights):
            # What label_and_sample_proposals matches with.
            self.proposal_matcher = self.proposal_matchers[stage]
            with get_event_storage().name_scope(f"stage{stage}"):
                sampled = self.label_and_sample_proposals(proposals, targets)
                predictions = self._predict(features, sampled, stage)
                found = self.box_predictor[stage].losses(predictions, sampled)
                if self.mask_on:
                    objects, _ = select_foreground_proposals(sampled, self.num_classes)
                    crops = self._pool_masks(features, [each.proposal_boxes for each in objects])
                    found.update(self.mask_head[stage](crops, objects))
            found = share_losses(found, sampled, self.num_classes)
            losses.update({f"{name}_stage{stage}": weight * loss for name, loss in found.items()})
            proposals = self._refine(predictions, sampled, stage)
            proposals = [each[~each.is_target] for each in proposals]
        return sampled, losses

    def forward_with_given_boxes(self, features, instances: list[Instances]) -> list[Instances]:
        """Adds `pred_masks`, the mean of all stages' probabilities, to detected instances."""
        if not self.mask_on:
            return instances
        crops = self._pool_masks(features, [each.pred_boxes for each in instances])
        stages = []
        for head in self.mask_head:
            head(crops, instances)
            stages.append([each.pred_masks for each in instances])
        for each, masks in zip(instances, zip(*stages)):
            each.pred_masks = torch.stack(masks).mean(dim=0)
        return instances

    def _detect(self, features, proposals):
        logits, refined = [], proposals
        for stage, _ in enumerate(self.box_predictor):
            proposals = refined
            predictions = self._predict(features, proposals, stage)
            logits.append(predictions[0])
            refined = self._refine(predictions, proposals, stage)
        predictions = torch.stack(logits).mean(dim=0), predictions[1]
        instances, _ = self.box_predictor[-1].inference(predictions, proposals)
        return instances

    def _predict(self, features, proposals, stage):
        """Class logits and box deltas of one stage."""
        features = [features[name] for name in self.box_in_features]
        crops = self.box_pooler(features, [each.proposal_boxes for each in proposals])
        return self.box_predictor[stage](self.box_head[stage](crops))

    def _pool_masks(self, features, boxes):
        return self.mask_pooler([features[name] for name in self.mask_in_features], boxes)

    @torch.no_grad()
    def _refine(self, predictions, proposals, stage):
        """The proposals moved to where a stage's predictions put them, within the image."""
        refined = []
        for boxes, before in zip(
            self.box_predictor[stage].predict_boxes(predictions, proposals), proposals
        ):
            after = Instances(before.image_size, proposal_boxes=Boxes(boxes))
            after.proposal_boxes.clip(before.image_size)
            for name in ("objectness_logits", "is_target"):
                if before.has(name):
                    after.set(name, before.get(name))
            refined.append(after)
        return refined


def _marked(instances, boxes, is_target):
    """The instances with a field that tells proposals and, once they are added, objects apart."""
    mark = torch.full((len(boxes),), is_target, device=boxes.device)
    return Instances(instances.image_size, **instances.get_fields(), is_target=mark)
