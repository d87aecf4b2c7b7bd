"""Detectron2's DatasetMapper for pictures as they come."""

import copy

import detectron2.data.transforms as T
import torch
from detectron2.data import DatasetMapper, detection_utils

from .reading import read_image

__all__ = ["RobustMapper", "UnusablePicture"]


class UnusablePicture(ValueError):
    """A picture that cannot be made into a sample; the message names its file and why."""


class RobustMapper(DatasetMapper):
    """Detectron2's `DatasetMapper`, with the same arguments, which reads with
    `d2_regnet.data.read_image`.

    Whatever goes wrong with a picture is raised as `UnusablePicture`. `build_train_loader` then
    takes another picture; Detectron2's loaders stop, which is right for evaluation: a metric over
    fewer pictures would be another metric.
    """

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Args:
            dataset_dict: one picture in Detectron2's dataset format; it is left as it is.

        Returns:
            As `DatasetMapper`: the dict with `image`, uint8 (C, H, W), and in training `instances`.

        Raises:
            UnusablePicture: it is missing, damaged, not of the annotated size, or has broken
                annotations.
        """
        try:
            return self._map(copy.deepcopy(dataset_dict))
        except ImportError:  # no picture's fault
            raise
        except Exception as error:
            file_name = dataset_dict.get("file_name")
            reason = " ".join(str(error).split())
            raise UnusablePicture(f"{file_name}: {type(error).__name__}: {reason}") from error

    def _map(self, record: dict) -> dict:
        size = (record.get("width"), record.get("height"))
        image = read_image(record["file_name"], self.image_format, size)
        detection_utils.check_image_size(record, image)
        sem_seg = None
        if "sem_seg_file_name" in record:
            file_name = record.pop("sem_seg_file_name")
            sem_seg = detection_utils.read_image(file_name, "L").squeeze(2)
        augmented = T.AugInput(image, sem_seg=sem_seg)
        transforms = self.augmentations(augmented)
        shape = augmented.image.shape[:2]
        record["image"] = torch.from_numpy(augmented.image.transpose(2, 0, 1).copy())
        if sem_seg is not None:
            record["sem_seg"] = torch.from_numpy(augmented.sem_seg.astype("long"))
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(
                record, shape, transforms, proposal_topk=self.proposal_topk
            )
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, shape)
        return record
