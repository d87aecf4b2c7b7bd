"""Masks are pasted as Detectron2 pastes them."""

import torch
from detectron2.layers import paste_masks_in_image

from d2_regnet.export.graph import paste_masks


def test_masks_are_pasted_as_detectron2_does(seed):
    size = (190, 250)
    corners = torch.rand(60, 2, 2) * torch.tensor([250.0, 190.0])
    boxes = torch.cat([corners.amin(1), corners.amax(1) + 0.1], dim=1)
    boxes[:5] = torch.tensor([0.0, 0.0, 250.0, 190.0])
    boxes[5:9, 2:] = boxes[5:9, :2] + 0.3  # thinner than a pixel
    masks = torch.rand(60, 28, 28)
    pasted = paste_masks(masks, boxes, torch.tensor(size))
    expected = paste_masks_in_image(masks, boxes, size)
    assert pasted.dtype == torch.bool and pasted.shape == expected.shape
    # A probability within rounding of one half may fall on either side.
    assert (pasted != expected).sum() <= 5 < 10_000 < expected.sum()


def test_no_masks():
    pasted = paste_masks(torch.rand(0, 28, 28), torch.rand(0, 4), torch.tensor([30, 40]))
    assert pasted.shape == (0, 30, 40) and pasted.dtype == torch.bool
