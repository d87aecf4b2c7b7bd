"""COCO's metrics with faster-coco-eval: the same numbers as pycocotools', sooner."""

import contextlib
import importlib.metadata
import io
import logging
import sys
from collections.abc import Sequence

from detectron2.evaluation import COCOEvaluator
from pycocotools.coco import COCO

try:
    from faster_coco_eval import COCO as FasterCOCO
    from faster_coco_eval import COCOeval_faster
except ImportError:
    COCOeval_faster = None

__all__ = ["FastCOCOEvaluator"]

_NO_PICTURE = [-1]
_TASKS = ("bbox", "segm")


class FastCOCOEvaluator(COCOEvaluator):
    """Detectron2's `COCOEvaluator`, with the same arguments, answers and files, which compares
    boxes and masks with faster-coco-eval (https://github.com/MiXaiLL76/faster_coco_eval).

    pycocotools does it, as in Detectron2, where faster-coco-eval cannot be imported, with
    `use_fast_impl=False`, for keypoints, and for annotations whose ids are not positive integers.
    """

    def __init__(self, *args, use_fast_impl: bool = True, **kwargs):
        """
        Args:
            *args, **kwargs: as `COCOEvaluator`.
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
        of `output_dir`, and returns task -> metric -> value in percent."""
        if not self._faster:
            return super().evaluate(img_ids)
        # All of COCOEvaluator's work but the comparison: it compares on an image that is not
        # there, and _derive_coco_results on the real ones.
        self._img_ids, self._stdout = img_ids, sys.stdout
        with contextlib.redirect_stdout(io.StringIO()):
            return super().evaluate(_NO_PICTURE)

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        if self._faster and coco_eval is not None:
            with contextlib.redirect_stdout(self._stdout):
                _compare(coco_eval, iou_type, self._img_ids)
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


def _compare(coco_eval, iou_type: str, img_ids: Sequence[int] | None) -> None:
    """Fills pycocotools' `COCOeval` with the precision and recall of the images `img_ids`."""
    truth, found = coco_eval.cocoGt, coco_eval.cocoDt
    params = coco_eval.params
    params.imgIds = sorted(truth.getImgIds() if img_ids is None else img_ids)
    if iou_type not in _TASKS or not _countable(truth):
        coco_eval.evaluate()
        coco_eval.accumulate()
    else:
        version = importlib.metadata.version("faster-coco-eval")
        logging.getLogger(__name__).info("Comparing %s with faster-coco-eval %s", iou_type, version)
        faster = COCOeval_faster(FasterCOCO(truth.dataset), FasterCOCO(found.dataset), iou_type)
        faster.params.imgIds, faster.params.maxDets = params.imgIds, params.maxDets
        faster.evaluate()
        faster.accumulate()
        coco_eval.eval = faster.eval
    coco_eval.summarize()


def _countable(truth: COCO) -> bool:
    """faster-coco-eval takes ids for numbers, and the annotation 0 for none."""
    ids = [*truth.imgs, *truth.cats, *truth.anns]
    return all(type(each) is int for each in ids) and 0 not in truth.anns
