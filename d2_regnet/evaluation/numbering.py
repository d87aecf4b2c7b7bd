"""Ground truth and detections under ids that no evaluation tool can mistake."""

from collections import Counter
from collections.abc import Iterable

from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from d2_regnet.data.masks import plausible_area

__all__ = ["renumbered"]


def renumbered(truth: COCO, found: COCO, masks: bool = False) -> tuple[COCO, COCO, dict]:
    """The same images, categories, objects and detections, numbered from 1.

    pycocotools takes the annotation 0 for none, faster-coco-eval keeps ids in doubles, and COCO's
    ids may be of 64 bits, negative, or texts. Images and categories are numbered in the order of
    their ids, objects and detections as they come, so that all that ties stays in its order. Beside
    it, `area` where it is missing or cannot be (see `plausible_area`) becomes the mask's, or the
    box's, and `iscrowd` 0; sizes become whole numbers.

    Args:
        truth: COCO's ground truth; left as it is.
        found: of `truth.loadRes`; left as it is.
        masks: they are to be compared: an object without one is ignored, with what is found in its
            box.

    Returns:
        Both, and the new number of each image by its id.

    Raises:
        ValueError: two images or categories have the same id, or the ids have no order.
    """
    images = _numbers(truth.dataset["images"], "image")
    categories = _numbers(truth.dataset["categories"], "category")
    by_id = {
        each["id"]: each | {"id": images[each["id"]]} | _whole(each)
        for each in truth.dataset["images"]
    }

    def copy(annotations: Iterable[dict]) -> COCO:
        known = (
            each
            for each in annotations
            if each["image_id"] in images and each["category_id"] in categories
        )
        return _indexed(
            [*by_id.values()],
            [each | {"id": categories[each["id"]]} for each in truth.dataset["categories"]],
            [
                {"iscrowd": 0}
                | each
                | (
                    _ignored(each["bbox"], by_id[each["image_id"]])
                    if masks and not each.get("segmentation")
                    else {}
                )
                | {
                    "id": number,
                    "image_id": images[each["image_id"]],
                    "category_id": categories[each["category_id"]],
                }
                # A detection's is loadRes's product, also where that is negative.
                | ({} if "score" in each else {"area": _area(each, by_id[each["image_id"]])})
                for number, each in enumerate(known, 1)
            ],
        )

    objects, detections = (each.dataset.get("annotations", []) for each in (truth, found))
    return copy(objects), copy(detections), images


def _numbers(entries: list[dict], what: str) -> dict:
    counts = Counter(each["id"] for each in entries)
    for number, count in counts.items():
        if count > 1:
            raise ValueError(f"the {what} id {number!r} stands for {count}: make ids unique")
    try:
        return {each: number for number, each in enumerate(sorted(counts), 1)}
    except TypeError as error:
        raise ValueError(f"the {what} ids are of several types: {error}") from error


def _ignored(box: list, image: dict) -> dict:
    x0, y0, w, h = box
    # Within the image: pycocotools takes memory for all that is beyond.
    x0, x1 = (min(max(x, 0), image["width"]) for x in (x0, x0 + w))
    y0, y1 = (min(max(y, 0), image["height"]) for y in (y0, y0 + h))
    return {"iscrowd": 1, "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]}


def _whole(image: dict) -> dict:
    return {side: int(image[side]) for side in ("width", "height") if side in image}


def _area(annotation: dict, image: dict) -> float:
    area, box = annotation.get("area"), annotation.get("bbox", (0, 0, 0, 0))
    if plausible_area(area, box, annotation.get("segmentation")):
        return area
    mask = annotation.get("segmentation")
    if mask:
        if isinstance(mask, list) or isinstance(mask["counts"], list):
            mask = mask_utils.frPyObjects(mask, image["height"], image["width"])
        return float(mask_utils.area(mask_utils.merge(mask) if isinstance(mask, list) else mask))
    return float(box[2] * box[3])


def _indexed(images: list[dict], categories: list[dict], annotations: list[dict]) -> COCO:
    coco = COCO()
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco
