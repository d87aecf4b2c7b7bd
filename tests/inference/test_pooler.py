"""Pooling of channels-last features against Detectron2's poolers on torchvision's kernel."""

import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from d2_regnet.inference.pooler import ChannelsLastPooler, roi_align

# A coordinate of some tens of cells is known to 4e-6 of a cell, and cells differ by 4 or so.
ROUNDING = {"rtol": 1e-4, "atol": 5e-5}


def random_boxes(count, height, width):
    """Boxes of all sizes, some across the image's edge, some outside of it, some without area."""
    corners = torch.rand(count, 2) * torch.tensor([width, height]) * 1.4 - 0.2 * width
    sizes = 2 ** (torch.rand(count, 2) * 9)
    boxes = torch.cat([corners, corners + sizes], dim=1)
    boxes[::10, 2:] = boxes[::10, :2]
    boxes[0] = torch.tensor([0, 0, width, height])
    return boxes


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("size", [(7, 7), (14, 5)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_equals_torchvisions(aligned, ratio, size, layout, seed):
    x = torch.randn(2, 16, 23, 37).contiguous(memory_format=layout)
    rois = torch.cat([torch.arange(60)[:, None] % 2, random_boxes(60, 184, 296)], dim=1)
    align = ROIAlign(size, 1 / 8, ratio, aligned)
    ours = roi_align(x, rois, align).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours, align(x, rois), **ROUNDING)


@pytest.mark.parametrize("counts", [(40, 25), (0, 12), (0, 0)])
@pytest.mark.parametrize("kind", ["ROIAlignV2", "ROIAlign", "ROIPool"])
def test_equals_detectron2s_pooler(counts, kind, seed):
    x = [torch.randn(2, 8, 256 // s, 320 // s) for s in (4, 8, 16, 32)]
    pooler = ROIPooler(7, [1 / 4, 1 / 8, 1 / 16, 1 / 32], sampling_ratio=0, pooler_type=kind)
    boxes = [
        Boxes(random_boxes(count, 256, 320)[:count]) if count else Boxes([]) for count in counts
    ]
    ours = ChannelsLastPooler(pooler)
    channels_last = [each.contiguous(memory_format=torch.channels_last) for each in x]
    torch.testing.assert_close(ours(channels_last, boxes), pooler(x, boxes), **ROUNDING)
    low = ours([each.bfloat16() for each in channels_last], boxes)
    assert low.dtype == torch.float32  # sampled in float32 from whatever the backbone computes in


def test_one_level(seed):
    x = [torch.randn(1, 8, 20, 30)]
    pooler = ROIPooler(7, [1 / 16], sampling_ratio=0, pooler_type="ROIAlignV2")
    boxes = [Boxes(random_boxes(20, 320, 480))]
    torch.testing.assert_close(ChannelsLastPooler(pooler)(x, boxes), pooler(x, boxes), **ROUNDING)
