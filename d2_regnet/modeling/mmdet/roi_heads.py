"""The second stage of Faster and Mask R-CNN as MMDetection trains it."""

from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import StandardROIHeads

from d2_regnet.modeling.global_batch import sample_each, share_losses

from .matcher import MaxIoUMatcher


@ROI_HEADS_REGISTRY.register()
class MMDetROIHeads(StandardROIHeads):
    """Detectron2's StandardROIHeads for yacs configs, its proposals matched by `MaxIoUMatcher`.

    Each object's best proposal is matched with it from `MODEL.ROI_HEADS.MIN_LOW_QUALITY_IOU` on,
    also where the proposal overlaps another object more.
    """

    @classmethod
    def from_config(cls, cfg, input_shape):
        node = cfg.MODEL.ROI_HEADS
        matcher = MaxIoUMatcher(
            node.IOU_THRESHOLDS, node.IOU_LABELS, node.MIN_LOW_QUALITY_IOU, objects_appended=True
        )
        return {**super().from_config(cfg, input_shape), "proposal_matcher": matcher}

    def label_and_sample_proposals(self, proposals, targets):
        """As in `ROIHeads`, the same for any number of processes."""
        return sample_each(super().label_and_sample_proposals, proposals, targets)

    def forward(self, images, features, proposals, targets=None):
        """As in `ROIHeads`, the same for any number of processes."""
        proposals, losses = super().forward(images, features, proposals, targets)
        if self.training:
            losses = share_losses(losses, proposals, self.num_classes)
        return proposals, losses
