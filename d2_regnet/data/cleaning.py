"""A data set without what is wrong with it, and an account of what was taken out."""

from collections.abc import Iterable

from .checks import SECTIONS, check_annotations
from .findings import DROP, Finding, Kind, where

__all__ = ["cleaned", "crowd_as_objects", "mended"]

# What is mended by other values of an entry.
_MENDED = {Kind.NOT_A_NUMBER, Kind.MALFORMED, Kind.ANNOTATION_TWICE, Kind.ANNOTATION_0}
_MENDED |= {Kind.RLE_SIZE, Kind.RLE_BROKEN, Kind.POLYGON, Kind.POLYGON_SHORT}
_MENDED |= {Kind.NO_ISCROWD, Kind.NO_AREA, Kind.BOX_EMPTY}
# What is mended by leaving the entry out: it is no object that could be found.
_NO_OBJECT = {Kind.ANNOTATION_TWICE, Kind.BOX_EMPTY, Kind.BOX_OUTSIDE}


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
        elif isinstance(finding.remedy, dict):
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


def mended(coco: dict) -> tuple[dict, list[Finding], list[str]]:
    """Another COCO dict, in which is mended what takes no object away: a sound box outlasts a mask
    that is none, numbers are numbers, and boxes that nothing could find are left out.

    Returns:
        The dict (`coco` itself if there is nothing to mend, or if errors are left), what is left of
        the findings, and a line for each kind of what is mended and of the warnings.
    """
    findings, harmless, left, told = check_annotations(coco), [], [], {}
    for each in findings:
        by_value = isinstance(each.remedy, dict) and each.kind in _MENDED
        mends = by_value or (each.remedy == DROP and each.kind in _NO_OBJECT)
        (harmless if mends else left).append(each)
        if each.level == "warning" or mends:
            told.setdefault(each.kind, []).append(each.detail)
    lines = [f"{len(each)} of: {kind} (first: {each[0]})" for kind, each in told.items()]
    sound = not any(each.level == "error" for each in left)  # else entries may lack their ids
    return (cleaned(coco, harmless)[0] if harmless and sound else coco), left, lines


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
