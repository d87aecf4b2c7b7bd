"""The demo's image: colour is where the objects are, and nowhere else."""

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from d2_regnet.data.shapes import CLASSES, render
from d2_regnet.utils.drawing import draw_instances, zoom
from examples.demo import grey


def test_instances_are_drawn_where_they_are():
    """A ring's hole stays as it is; outside the box nothing changes."""
    image, kinds, seen = render(0, "val", 0)
    k = kinds.index("ring") + 1
    mask = seen == k
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    instances = Instances(
        mask.shape,
        pred_boxes=Boxes(torch.tensor([box])),
        pred_classes=torch.tensor([CLASSES.index("ring")]),
        pred_masks=torch.as_tensor(mask)[None],
        scores=torch.tensor([0.9]),
    )
    metadata = MetadataCatalog.get("shapes_val")
    drawn = draw_instances(grey(image), instances, metadata).astype(int)
    plain = draw_instances(grey(image), instances[:0], metadata).astype(int)
    times = zoom(*mask.shape)
    assert drawn.shape == (times * image.shape[0], times * image.shape[1], 3)
    assert (plain[..., 0] == plain[..., 2]).all()  # grey
    changed = np.abs(drawn - plain).sum(axis=2)[1::times, 1::times] > 30
    assert changed[mask].mean() > 0.95
    far = np.ones_like(mask)
    far[max(0, box[1] - 9) : box[3] + 3, max(0, box[0] - 3) : box[2] + 30] = False
    assert not changed[far].any()
