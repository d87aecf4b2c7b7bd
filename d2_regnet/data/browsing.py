"""A data set to look at before anything is trained: annotated images, and a page of counts."""

import html
import os
from collections import Counter
from pathlib import Path

from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode
from PIL import Image
from tabulate import tabulate

from d2_regnet.utils.drawing import draw_instances, from_annotations
from d2_regnet.utils.files import whole_file, write_file

from .images import read_image
from .masks import extent

__all__ = ["counts", "draw"]

_DRAWN = 50
_SIZES = ((32**2, "small, under 32 x 32"), (96**2, "medium, under 96 x 96"))  # COCO's
_ASPECTS = ((1 / 3, "under 1:3"), (1 / 1.5, "1:3 to 1:1.5"), (1.5, "about square"), (3, "to 3:1"))


def counts(coco: dict) -> dict[str, Counter]:
    """Objects by class, by size and by aspect ratio (width : height) of their boxes.

    Args:
        coco: a sound COCO dict, see `cleaned`.
    """
    names = {each["id"]: each["name"] for each in coco["categories"]}
    classes, sizes, aspects = Counter(dict.fromkeys(names.values(), 0)), Counter(), Counter()
    for each in coco.get("annotations", []):
        classes[names[each["category_id"]] + " (crowd)" * bool(each.get("iscrowd"))] += 1
        _, _, width, height = each["bbox"]
        if width > 0 and height > 0:
            sizes[_bin(width * height, _SIZES, "large")] += 1
            aspects[_bin(width / height, _ASPECTS, "over 3:1")] += 1
        else:
            sizes["without an area"] += 1
    return {"class": classes, "size": sizes, "aspect ratio": aspects}


def _bin(value: float, bins, last: str) -> str:
    return next((name for end, name in bins if value < end), last)


def draw(coco: dict, folder: str, target: str | os.PathLike) -> None:
    """Writes `index.html` with the counts, and up to 50 images, taken evenly, with their objects.

    Args:
        coco: a sound COCO dict, see `cleaned`.
        folder: of the images.
        target: a folder, which is made if need be.

    Raises:
        OSError: it cannot be written.
    """
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    categories = sorted(coco["categories"], key=lambda each: each["id"])
    places = {each["id"]: index for index, each in enumerate(categories)}
    metadata = Metadata(thing_classes=[each["name"] for each in categories])
    by_image: dict = {}
    for each in coco.get("annotations", []):
        by_image.setdefault(each["image_id"], []).append(_record(each, places))
    shown = []
    for number, image in enumerate(coco["images"][:: -(-len(coco["images"]) // _DRAWN)], 1):
        name, width, height = f"{number:02d}.jpg", int(image["width"]), int(image["height"])
        title = f"{image['file_name']}: {len(by_image.get(image['id'], []))} objects"
        try:
            pixels = read_image(os.path.join(folder, image["file_name"]), "RGB", (width, height))
        except (OSError, ValueError) as error:
            shown.append(f"<p>{html.escape(f'{title}: {error}')}</p>")
            continue
        found = from_annotations(by_image.get(image["id"], []), pixels.shape[:2])
        with whole_file(target / name) as file:
            Image.fromarray(draw_instances(pixels, found, metadata)).save(file, "JPEG", quality=90)
        shown.append(f'<figure><img src="{name}"><figcaption>{html.escape(title)}</figcaption>')
    write_file(target / "index.html", _page(coco, shown))


def _record(annotation: dict, places: dict[int, int]) -> dict:
    """In Detectron2's dataset format; a mask of nothing is left out."""
    record = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": places[annotation["category_id"]],
    }
    mask = annotation.get("segmentation")
    return record | ({"segmentation": mask} if mask and extent(mask) else {})


def _page(coco: dict, shown: list[str]) -> str:
    tables = "".join(
        tabulate(found.most_common(), (f"By {title}", "count"), "html")
        for title, found in counts(coco).items()
    )
    total = f"{len(coco['images'])} images, {len(coco.get('annotations', []))} annotations"
    style = "body{font-family:sans-serif;margin:2em}img{max-width:100%}table{margin:1em 0}"
    return (
        f'<!doctype html><meta charset="utf-8"><title>Data set</title><style>{style}</style>'
        f"<h1>{total}</h1>{tables}{''.join(shown)}"
    )
