"""What a detector found in one image, in the forms that others take."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from d2_regnet.utils.drawing import draw_instances
from d2_regnet.utils.lazy import import_extra

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Prediction:
    """Detections of one image, the surest first.

    Attributes:
        instances: Detectron2's, on the CPU, of the image's size: `pred_boxes` (N, 4) as x0, y0,
            x1, y1 in pixels, `scores` from 0 to 1, `pred_classes` from 0, and of Mask R-CNNs
            `pred_masks` bool (N, H, W).
        metadata: `thing_classes`, the names; `thing_dataset_id_to_contiguous_id`.
    """

    instances: Instances
    metadata: Metadata

    def __len__(self) -> int:
        return len(self.instances)

    @property
    def names(self) -> list[str]:
        """The class of each detection."""
        return [self.metadata.thing_classes[i] for i in self.instances.pred_classes.tolist()]

    def to_instances(self) -> Instances:
        """As Detectron2's models return them: `{"instances": prediction.to_instances()}`."""
        return self.instances

    def to_coco(self, image_id: int = 0) -> list[dict]:
        """In COCO's results format, which `COCO.loadRes` takes.

        Returns:
            Dicts of `image_id`, `category_id` (the data set's own), `bbox` (x, y, width, height),
            `score`, and of Mask R-CNNs `segmentation` (compressed RLE).
        """
        ids = {v: k for k, v in self.metadata.thing_dataset_id_to_contiguous_id.items()}
        found = instances_to_coco_json(self.instances, image_id)
        return [{**each, "category_id": ids[each["category_id"]]} for each in found]

    def to_supervision(self) -> "supervision.Detections":
        """`supervision.Detections`, with the names under `data["class_name"]`.

        Raises:
            ImportError: supervision is not installed.
        """
        detections = import_extra("supervision", "supervision").Detections
        found = detections.from_detectron2({"instances": self.instances})
        found.data["class_name"] = np.array(self.names, dtype=str)
        return found

    def draw(self, image: np.ndarray, *, enlarge: bool = True) -> np.ndarray:
        """Draws all of it on a copy of the image, uint8 (H, W, 3), RGB.

        With `enlarge`, images under 480 pixels, on which text cannot be read, become larger.
        """
        return draw_instances(image, self.instances, self.metadata, enlarge=enlarge)
