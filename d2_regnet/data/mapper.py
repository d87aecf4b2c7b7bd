"""Detectron2's DatasetMapper for images as they come, in half its time."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import DatasetMapper, detection_utils
from detectron2.structures import BitMasks, BoxMode, Instances
from pycocotools import mask as mask_utils

from .images import read_image
from .resizing import FastInput

__all__ = ["RobustMapper", "UnusablePicture"]


class UnusablePicture(ValueError):
    """An image that cannot be made into a sample; the message names its file and why."""


class RobustMapper(DatasetMapper):
    """Detectron2's `DatasetMapper`, with the same arguments, which reads with
    `d2_regnet.data.read_image` and resizes with `d2_regnet.data.resizing`.

    In training with masks, an object that has none gets its box as one, and `gt_has_mask`, bool
    (N,), tells them apart in such an image: `modeling.partial_masks.PartialMaskHead` learns from
    the others.

    Whatever goes wrong with an image is raised as `UnusablePicture`. `build_train_loader` then
    takes another image; Detectron2's loaders stop, which is right for evaluation: a metric over
    fewer images would be another metric.
    """

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Args:
            dataset_dict: one image in Detectron2's dataset format; it is left as it is.

        Returns:
            As `DatasetMapper`: the dict with `image`, uint8 (C, H, W), and in training `instances`.

        Raises:
            UnusablePicture: it is missing, damaged, not of the annotated size, or has broken
                annotations.
        """
        try:
            return self._map(dataset_dict)
        except ImportError:  # no image's fault
            raise
        except Exception as error:
            file_name = dataset_dict.get("file_name")
            reason = " ".join(str(error).split())
            raise UnusablePicture(f"{file_name}: {type(error).__name__}: {reason}") from error

    def _map(self, dataset_dict: dict) -> dict:
        # Copying the annotations' polygons would take as long as a third of the decoding.
        record = copy.deepcopy({k: v for k, v in dataset_dict.items() if k != "annotations"})
        for side in ("width", "height"):
            if isinstance(record.get(side), float):  # as some tools write them
                record[side] = int(record[side])
        known = "width" in record and "height" in record
        size = (record["width"], record["height"]) if known else None
        image = read_image(record["file_name"], self.image_format, size)
        detection_utils.check_image_size(record, image)
        sem_seg = None
        if "sem_seg_file_name" in record:
            file_name = record.pop("sem_seg_file_name")
            sem_seg = detection_utils.read_image(file_name, "L").squeeze(2)
        augmented = FastInput(image, sem_seg=sem_seg)
        transforms = self.augmentations(augmented)
        shape = augmented.image.shape[:2]
        pixels = np.require(augmented.image.transpose(2, 0, 1), requirements=["C", "W"])
        if min(pixels.strides) < 0:  # one column, flipped: contiguous to NumPy, but not to torch
            pixels = pixels.copy()
        record["image"] = torch.from_numpy(pixels)
        if sem_seg is not None:
            record["sem_seg"] = torch.from_numpy(augmented.sem_seg.astype("long"))
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(
                record, shape, transforms, proposal_topk=self.proposal_topk
            )
        if self.is_train and "annotations" in dataset_dict:
            record["instances"] = self._instances(dataset_dict["annotations"], transforms, shape)
        return record

    def _instances(self, annotations, transforms, shape: tuple[int, int]) -> Instances:
        """As `DatasetMapper._transform_annotations`; `annotations` are left as they are."""
        annotations = [each for each in annotations if not each.get("iscrowd", 0)]
        has_mask = [_has_mask(each) for each in annotations]
        partial = self.use_instance_mask and not all(has_mask)
        if partial:  # what stands in for a mask is not learnt, see PartialMaskHead
            annotations = [
                each if own else each | {"segmentation": [_outline(each)]}
                for each, own in zip(annotations, has_mask)
            ]
        unused = {"segmentation"} if not self.use_instance_mask else set()
        unused |= {"keypoints"} if not self.use_keypoint else set()
        transformed = [
            detection_utils.transform_instance_annotations(
                _copied(annotation, unused),
                transforms,
                shape,
                keypoint_hflip_indices=self.keypoint_hflip_indices,
            )
            for annotation in annotations
        ]
        masks = None
        is_bitmask = self.instance_mask_format == "bitmask"
        if is_bitmask and transformed and "segmentation" in transformed[0]:
            masks = _bitmasks([each.pop("segmentation") for each in transformed], shape)
        instances = detection_utils.annotations_to_instances(
            transformed, shape, mask_format=self.instance_mask_format
        )
        if masks is not None:
            instances.gt_masks = masks
        if partial:
            instances.gt_has_mask = torch.tensor(has_mask)
        if self.recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        if masks is not None and _none_is_empty(instances):
            return instances  # choosing all would copy the masks
        return detection_utils.filter_empty_instances(instances)


def _has_mask(annotation: dict) -> bool:
    mask = annotation.get("segmentation")
    if isinstance(mask, list):
        return any(len(polygon) >= 6 for polygon in mask)
    return mask is not None and len(mask) > 0


def _outline(annotation: dict) -> list[float]:
    """The box as a polygon."""
    box = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    x0, y0, x1, y1 = map(float, box)
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def _copied(annotation: dict, without: set[str]) -> dict:
    """A copy that Detectron2's transforms may change. They make new arrays of polygons in lists."""
    return {
        key: value if key == "segmentation" and _is_lists(value) else copy.deepcopy(value)
        for key, value in annotation.items()
        if key not in without
    }


def _is_lists(segmentation) -> bool:
    return isinstance(segmentation, list) and all(type(each) is list for each in segmentation)


def _bitmasks(segmentations: Sequence[list | np.ndarray], shape: tuple[int, int]) -> BitMasks:
    """Polygons, (x, y, x, y, ...) in pixels, or masks (H, W), as (N, H, W)."""
    masks = np.zeros((len(segmentations), *shape), dtype=np.uint8)
    for mask, segmentation in zip(masks, segmentations):
        if isinstance(segmentation, np.ndarray):
            mask[:] = segmentation != 0
        elif segmentation:
            rle = mask_utils.merge(mask_utils.frPyObjects(segmentation, *shape))
            # A decoded mask lies column by column; turning all of it takes as long as decoding.
            x, y, width, height = mask_utils.toBbox(rle).astype(int)
            box = slice(y, y + height), slice(x, x + width)
            mask[box] = mask_utils.decode(rle)[box]
    return BitMasks(torch.from_numpy(masks.view(bool)))


def _none_is_empty(instances: Instances) -> bool:
    masks = instances.gt_masks.tensor.numpy()
    # NumPy stops at the first pixel, torch goes through all.
    return bool(instances.gt_boxes.nonempty(1e-5).all()) and all(mask.any() for mask in masks)
