"""COCO's metrics with faster-coco-eval: the same numbers as pycocotools', sooner."""

import contextlib
import importlib.metadata
import io
import logging
import sys
from collections.abc import Sequence

from detectron2.evaluation import COCOEvaluator

try:
    from faster_coco_eval import COCO as FasterCOCO
    from faster_coco_eval import COCOeval_faster
except ImportError:
    COCOeval_faster = None

from .numbering import renumbered

__all__ = ["FastCOCOEvaluator"]

_NO_IMAGE = [float("nan")]  # which is no image's id, as it equals nothing
_TASKS = ("bbox", "segm")


class FastCOCOEvaluator(COCOEvaluator):
    """Detectron2's `COCOEvaluator`, with the same arguments, answers and files, which compares
    boxes and masks with faster-coco-eval (https://github.com/MiXaiLL76/faster_coco_eval).

    Ids may be any that COCO files have, and areas may be missing (see `renumbered`). pycocotools
    compares, as in Detectron2, where faster-coco-eval cannot be imported, with
    `use_fast_impl=False`, and for keypoints.
    """

    def __init__(self, *args, use_fast_impl: bool = True, **kwargs):
        """
        Args:
            *args: as `COCOEvaluator`.
            **kwargs: as `COCOEvaluator`.
            use_fast_impl: use faster-coco-eval.
        """
        super().__init__(*args, use_fast_impl=False, **kwargs)
        self._faster = use_fast_impl and COCOeval_faster is not None
        if use_fast_impl and not self._faster:
            logging.getLogger(__name__).warning(
                "faster-coco-eval cannot be imported: pycocotools evaluates, which takes longer"
            )

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict:
        """As `COCOEvaluator.evaluate`: gathers the predictions of all processes, writes the files
        of `output_dir`, and returns task -> metric -> value in percent.

        Raises:
            ValueError: two images or categories have the same id.
        """
        # All of COCOEvaluator's work but the comparison: it compares on an image that is not
        # there, and _derive_coco_results on the real ones.
        self._img_ids, self._stdout = img_ids, sys.stdout
        with contextlib.redirect_stdout(io.StringIO()):
            return super().evaluate(_NO_IMAGE)

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        if coco_eval is not None:  # Detectron2's evaluator answers NaN if nothing was found
            with contextlib.redirect_stdout(self._stdout):
                _compare(coco_eval, iou_type, self._img_ids, self._faster)
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


def _compare(coco_eval, iou_type: str, img_ids: Sequence[int] | None, fast: bool) -> None:
    """Fills pycocotools' `COCOeval` with the precision and recall of the images `img_ids`."""
    truth, found, numbers = renumbered(coco_eval.cocoGt, coco_eval.cocoDt, iou_type == "segm")
    params = coco_eval.params
    params.imgIds = sorted(numbers[each] for each in (numbers if img_ids is None else img_ids))
    params.catIds = sorted(truth.cats)
    if fast and iou_type in _TASKS:
        version = importlib.metadata.version("faster-coco-eval")
        logging.getLogger(__name__).info("Comparing %s with faster-coco-eval %s", iou_type, version)
        faster = COCOeval_faster(FasterCOCO(truth.dataset), FasterCOCO(found.dataset), iou_type)
        faster.params.imgIds, faster.params.maxDets = params.imgIds, params.maxDets
        faster.evaluate()
        faster.accumulate()
        coco_eval.eval = faster.eval
    else:
        coco_eval.cocoGt, coco_eval.cocoDt = truth, found
        coco_eval.evaluate()
        coco_eval.accumulate()
    coco_eval.summarize()
