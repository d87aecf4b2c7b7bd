"""A mask head for data in which some objects have no mask."""

import torch
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY, MaskRCNNConvUpsampleHead
from detectron2.structures import Instances

__all__ = ["PartialMaskHead"]


@ROI_MASK_HEAD_REGISTRY.register()
class PartialMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head, which learns from the objects that have a mask.

    `RobustMapper` marks them by `gt_has_mask`. Boxes and classes are learnt from all objects.
    """

    def forward(self, x: torch.Tensor, instances: list[Instances]):
        """As `BaseMaskRCNNHead.forward`; x: features (N, C, H, W) of all instances in turn."""
        if self.training and any(each.has("gt_has_mask") for each in instances):
            keep = [
                each.gt_has_mask
                if each.has("gt_has_mask")
                else torch.ones(len(each), dtype=torch.bool, device=x.device)
                for each in instances
            ]
            instances = [each[own] for each, own in zip(instances, keep)]
            x = x[torch.cat(keep)]
        return super().forward(x, instances)
