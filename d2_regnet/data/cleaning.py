"""A data set without what is wrong with it, and an account of what was taken out."""

from collections.abc import Iterable

from .checks import SECTIONS
from .findings import DROP, Finding, where

__all__ = ["cleaned", "crowd_as_objects"]


def cleaned(coco: dict, findings: Iterable[Finding]) -> tuple[dict, list[str]]:
    """Another COCO dict, to which every finding's remedy was applied; `coco` stays as it is.

    What an image or category is dropped of is dropped too. Images stay when they lose all their
    annotations, and a sound box stays when its mask is none.

    Returns:
        The dict, and a line for each entry that was removed or changed, with the reason.
    """
    dropped = {section: set() for section in SECTIONS}
    changes = {section: {} for section in SECTIONS}
    lines = []
    for finding in findings:
        if finding.remedy == DROP:
            dropped[finding.section].add(finding.index)
            done = "removed"
        elif finding.remedy:
            changes[finding.section].setdefault(finding.index, {}).update(finding.remedy)
            done = ", ".join(
                f"{key} removed" if value is None else f"{key} set to {value}"
                for key, value in finding.remedy.items()
            )
        else:
            continue
        lines.append(
            f"{finding.section}[{finding.index}]: {done}: {finding.kind}: {finding.detail}"
        )
    result = dict(coco)
    for section in filter(coco.__contains__, SECTIONS):
        result[section] = [
            _changed(entry, changes[section].get(index, {}))
            for index, entry in enumerate(coco[section])
            if index not in dropped[section]
        ]
    images = {image["id"] for image in result["images"]}
    categories = {category["id"] for category in result["categories"]}
    kept = []
    for annotation in result.get("annotations", []):
        if annotation["image_id"] in images and annotation["category_id"] in categories:
            kept.append(annotation)
        else:
            lines.append(f"annotations: removed with its image or category: {where(annotation)}")
    if "annotations" in coco:
        result["annotations"] = kept
    return result, lines


def _changed(entry: dict, changes: dict) -> dict:
    if not changes:
        return entry
    gone = {key for key, value in changes.items() if value is None}
    return {key: value for key, value in (entry | changes).items() if key not in gone}


def crowd_as_objects(coco: dict) -> dict:
    """Another COCO dict, whose crowd regions are objects: CVAT exports each mask as a crowd."""
    return coco | {
        "annotations": [
            each | {"iscrowd": 0} if isinstance(each, dict) and each.get("iscrowd") == 1 else each
            for each in coco.get("annotations", [])
        ]
    }
