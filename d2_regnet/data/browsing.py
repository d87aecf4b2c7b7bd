"""A data set to look at before anything is trained: annotated images, and a page of counts."""

import html
import os
from collections import Counter
from pathlib import Path

from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode
from PIL import Image

from d2_regnet.utils.drawing import draw_instances, from_annotations
from d2_regnet.utils.files import whole_file

from .checks import mask_problems
from .images import read_image
from .masks import extent

__all__ = ["counts", "draw"]

_DRAWN = 50
_SIZES = ((32**2, "small, under 32 x 32"), (96**2, "medium, under 96 x 96"))  # COCO's
_ASPECTS = ((1 / 3, "under 1:3"), (1 / 1.5, "1:3 to 1:1.5"), (1.5, "about square"), (3, "to 3:1"))


def counts(coco: dict) -> dict[str, Counter]:
    """Objects by class, by size and by aspect ratio (width : height) of their boxes.

    Args:
        coco: a COCO dict; annotations without a box of an area are counted as such.
    """
    names = {each["id"]: each["name"] for each in coco["categories"]}
    found = {
        "class": Counter(dict.fromkeys(names.values(), 0)),
        "size": Counter(),
        "aspect ratio": Counter(),
    }
    for each in coco.get("annotations", []):
        name = names.get(each.get("category_id"), "of no known class")
        found["class"][f"{name} (crowd)" if each.get("iscrowd") else name] += 1
        width, height = (each.get("bbox") or [0] * 4)[2:]
        if width > 0 and height > 0:
            found["size"][_bin(width * height, _SIZES, "large")] += 1
            found["aspect ratio"][_bin(width / height, _ASPECTS, "over 3:1")] += 1
        else:
            found["size"]["without an area"] += 1
    return found


def _bin(value: float, bins, last: str) -> str:
    return next((name for end, name in bins if value < end), last)


def draw(coco: dict, folder: str, target: str | os.PathLike) -> None:
    """Writes `index.html` with the counts, and up to 50 images, taken evenly, with their objects.

    Args:
        coco: as `read_coco` returns it.
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
        if each.get("category_id") in places and each.get("bbox"):
            by_image.setdefault(each["image_id"], []).append(each)
    shown = []
    for number, image in enumerate(coco["images"][:: -(-len(coco["images"]) // _DRAWN)], 1):
        name, width, height = f"{number:02d}.jpg", int(image["width"]), int(image["height"])
        title = f"{image['file_name']}: {len(by_image.get(image['id'], []))} objects"
        try:
            pixels = read_image(os.path.join(folder, image["file_name"]), "RGB", (width, height))
        except (OSError, ValueError) as error:
            shown.append(f"<p>{html.escape(f'{title}: {error}')}</p>")
            continue
        records = [_record(each, places, (width, height)) for each in by_image.get(image["id"], [])]
        found = from_annotations(records, pixels.shape[:2])
        with whole_file(target / name) as file:
            Image.fromarray(draw_instances(pixels, found, metadata)).save(file, "JPEG", quality=90)
        shown.append(f'<figure><img src="{name}"><figcaption>{html.escape(title)}</figcaption>')
    with whole_file(target / "index.html") as file:
        file.write(_page(coco, shown).encode())


def _record(annotation: dict, places: dict[int, int], size: tuple[int, int]) -> dict:
    """In Detectron2's dataset format; a mask that is not sound is left out."""
    record = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": places[annotation["category_id"]],
    }
    mask = annotation.get("segmentation")
    sound = mask and extent(mask) and not list(mask_problems(mask, *size))
    return record | ({"segmentation": mask} if sound else {})


def _page(coco: dict, shown: list[str]) -> str:
    tables = "".join(
        f"<h2>By {title}</h2><table>"
        + "".join(
            f"<tr><td>{html.escape(str(name))}<td>{count}" for name, count in found.most_common()
        )
        + "</table>"
        for title, found in counts(coco).items()
    )
    total = f"{len(coco['images'])} images, {len(coco.get('annotations', []))} annotations"
    style = "body{font-family:sans-serif;margin:2em}img{max-width:100%}td{padding:0 1em 0 0}"
    return (
        f'<!doctype html><meta charset="utf-8"><title>Data set</title><style>{style}</style>'
        f"<h1>{total}</h1>{tables}{''.join(shown)}"
    )
