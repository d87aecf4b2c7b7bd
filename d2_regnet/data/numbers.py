"""Numbers that tools have written as texts or fractions: what they are."""

import re
from collections.abc import Iterator

__all__ = ["written_otherwise"]

_WHOLE = re.compile(r"\s*([-+]?\d+)(\.0*)?\s*")
_KEYS = {
    "categories": ("id",),
    "images": ("id", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "iscrowd"),
}
_TEXT_IS_SOUND = {("images", "id"), ("annotations", "image_id")}
_FRACTION_IS_SOUND = {("images", "width"), ("images", "height")}


def written_otherwise(coco: dict) -> Iterator[tuple[str, int, dict]]:
    """What is to be changed for ids, sizes and boxes to be numbers: section, index, new values.

    Texts of numbers and whole fractions (1.0) are such; an image's id may be a text, and an
    annotation then has it as a text, too. `iscrowd` that is null is 0.
    """
    ids: set = set()
    for section, keys in _KEYS.items():
        for index, entry in enumerate(coco.get(section) or []):
            if not isinstance(entry, dict):
                continue
            changes = {}
            for key in keys:
                value = entry.get(key, 0)
                if type(value) is not int and (number := _whole(value, section, key)) is not None:
                    changes[key] = number
            if section == "images":
                number = changes.get("id", entry.get("id"))
                ids.add(number if isinstance(number, int | str) else None)
            elif section == "annotations":
                changes |= _of_annotation(entry, ids)
            if changes:
                yield section, index, changes


def _whole(value, section: str, key: str) -> int | None:
    where = section, key
    if type(value) is float and where not in _FRACTION_IS_SOUND:
        return int(value) if value.is_integer() and abs(value) < 2**53 else None
    if isinstance(value, str) and where not in _TEXT_IS_SOUND:
        match = _WHOLE.fullmatch(value)
        return int(match[1]) if match and len(match[1]) < 100 else None
    return 0 if value is None and key == "iscrowd" else None


def _of_annotation(entry: dict, ids: set) -> dict:
    changes, image, box = {}, entry.get("image_id"), entry.get("bbox")
    if isinstance(image, int | str) and image not in ids:
        match = _WHOLE.fullmatch(str(image))
        others = {str(image), int(match[1]) if match and len(match[1]) < 100 else None} & ids
        changes |= {"image_id": others.pop()} if others - {None} else {}
    if isinstance(box, list) and len(box) == 1 and isinstance(box[0], list):
        changes["bbox"] = box = box[0]
    if isinstance(box, list) and any(isinstance(value, str) for value in box):
        try:
            changes["bbox"] = [float(value) for value in box]
        except (TypeError, ValueError):
            changes.pop("bbox", None)
    return changes
