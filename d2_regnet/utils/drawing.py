"""Instances drawn on their image, with Detectron2's Visualizer, readable whatever its size."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer
from pycocotools import mask as coco_mask

from d2_regnet.data.images import read_image

SHOWN_SCORE = 0.5  # the least of a detection that is drawn beside the truth

_LONG_SIDE = 480  # pixels: smaller images are enlarged at least to this
_MOST = 8
_FONT = 9.0  # points, at least
_SMALL_FONT = 6.0  # on small images that stay as they are
_TINT = 0.4  # how much of a mask's pixels is its colour
_LETTER = 0.62  # width of a letter over the font's size, on average
_PIXELS_PER_POINT = 100 / 72  # matplotlib's


def zoom(height: int, width: int) -> int:
    """How many times `enlarged` enlarges an image of this size: 1 to 8."""
    return min(_MOST, max(1, math.ceil(_LONG_SIDE / max(height, width))))


def enlarged(image: np.ndarray) -> np.ndarray:
    """An (H, W, ...) array with every pixel repeated, so that text can be read beside it."""
    times = zoom(*image.shape[:2])
    return image.repeat(times, axis=0).repeat(times, axis=1)


def draw_instances(
    image: np.ndarray,
    instances: Instances,
    metadata: Metadata,
    *,
    enlarge: bool = True,
    font: float = 0,
) -> np.ndarray:
    """Masks, boxes, class names and scores in the colours of the classes.

    An image whose long side is under 480 pixels is enlarged (see `enlarged`); text and lines grow
    with larger ones.

    Args:
        image: uint8 (H, W, 3), RGB.
        instances: on the CPU, of this image's size: `pred_boxes` and `pred_classes`; `pred_masks`
            and `scores`, from 0 to 1, if there are any.
        metadata: `thing_classes`, and `thing_colors` (RGB, 0 to 255) if the classes have their own.
        enlarge: enlarge small images; if not, the result has the image's size.
        font: points of the text, at least.

    Returns:
        uint8 (h, w, 3), RGB.
    """
    times = zoom(*image.shape[:2]) if enlarge else 1
    height, width = times * image.shape[0], times * image.shape[1]
    least = _FONT if zoom(height, width) == 1 else _SMALL_FONT
    font = max(font, least, math.sqrt(height * width) / 75)
    known = metadata.get("thing_colors") or colormap(rgb=True, maximum=255)
    kinds = instances.pred_classes.tolist()
    colours = [np.asarray(known[kind % len(known)], float) for kind in kinds]
    scores = instances.scores.tolist() if instances.has("scores") else [None] * len(instances)
    # The surest last, so that nothing hides it.
    order = sorted(range(len(instances)), key=lambda i: scores[i] or 0)

    painted = enlarged(image) if enlarge else image.copy()
    if instances.has("pred_masks"):
        masks = np.asarray(instances.pred_masks, bool)
        for i in order:
            _paint(painted, masks[i].repeat(times, axis=0).repeat(times, axis=1), colours[i])
    canvas = Visualizer(painted, metadata)
    boxes = (times * instances.pred_boxes.tensor.double()).tolist()
    for i in order:
        canvas.draw_box(boxes[i], edge_color=tuple(colours[i] / 255), alpha=1.0)
    for i in order:
        score = "" if scores[i] is None else f" {scores[i]:.0%}"
        text = metadata.thing_classes[kinds[i]] + score
        canvas.draw_text(
            text,
            _place(boxes[i], len(text), font * _PIXELS_PER_POINT, width),
            font_size=font,
            color=tuple(0.6 * colours[i] / 255 + 0.4),  # light, on black
            horizontal_alignment="left",
        )
    return canvas.output.get_image()


def _paint(image: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> None:
    """Tints a bool (H, W) mask of an image, in place, and draws its edge in white.

    `Visualizer.draw_binary_mask` leaves out the edge of a mask with holes.
    """
    image[mask] = ((1 - _TINT) * image[mask] + _TINT * colour).astype(np.uint8)
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(math.sqrt(mask.size) / 700))
    cv2.drawContours(image, edges, -1, (255, 255, 255), thickness)


def _place(box: Sequence[float], letters: int, size: float, width: int) -> tuple[float, float]:
    """The top left corner of a box's label: on top of the box, inside it at the image's edge."""
    x = min(box[0], width - _LETTER * size * letters)
    y = box[1] - 1.25 * size
    return max(x, 0), y if y >= 0 else max(box[1], 0)


def from_annotations(annotations: Sequence[dict], size: tuple[int, int]) -> Instances:
    """Ground truth of one image, in Detectron2's dataset format, in the form of predictions.

    Args:
        size: the image's height and width.
    """
    has_masks = bool(annotations) and all(each.get("segmentation") for each in annotations)
    if not has_masks:
        annotations = [{k: v for k, v in a.items() if k != "segmentation"} for a in annotations]
    truth = annotations_to_instances(annotations, size, mask_format="bitmask")
    fields = {"pred_boxes": truth.gt_boxes, "pred_classes": truth.gt_classes}
    if has_masks:
        fields["pred_masks"] = truth.gt_masks.tensor
    return Instances(size, **fields)


def truth_and_found(
    records: Sequence[dict], results: Sequence[dict], metadata: Metadata
) -> Iterator[tuple[np.ndarray, Instances, Instances]]:
    """Images of a data set with their ground truth, and what an evaluation has found on them.

    Args:
        records: in Detectron2's dataset format, with width and height.
        results: in COCO's results format, of these and other images.
        metadata: with `thing_dataset_id_to_contiguous_id`.

    Yields:
        uint8 (H, W, 3), RGB; the truth; what has a score of `SHOWN_SCORE` or more.
    """
    by_image = defaultdict(list)
    for each in results:
        if each["score"] >= SHOWN_SCORE:
            by_image[each["image_id"]].append(each)
    for record in records:
        size = record["height"], record["width"]
        found = by_image[record["image_id"]]
        yield (
            read_image(record["file_name"], "RGB", size[::-1]),
            from_annotations(record.get("annotations", []), size),
            from_results(found, size, metadata.thing_dataset_id_to_contiguous_id),
        )


def from_results(
    results: Sequence[dict], size: tuple[int, int], ids: Mapping[int, int]
) -> Instances:
    """Predictions of one image from COCO's results format.

    Args:
        results: each with `bbox` (x, y, width, height), `score` and `category_id`, and maybe
            `segmentation` as compressed RLE.
        size: the image's height and width.
        ids: category id -> class index.
    """
    boxes = np.array([each["bbox"] for each in results], float).reshape(-1, 4)
    fields = {
        "pred_boxes": Boxes(
            torch.as_tensor(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
        ),
        "scores": torch.tensor([each["score"] for each in results]),
        "pred_classes": torch.tensor([ids[e["category_id"]] for e in results], dtype=torch.int64),
    }
    if results and all("segmentation" in each for each in results):
        masks = [coco_mask.decode(each["segmentation"]) for each in results]
        fields["pred_masks"] = torch.as_tensor(np.stack(masks)).bool()
    return Instances(size, **fields)
