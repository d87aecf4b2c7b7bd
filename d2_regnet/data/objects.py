"""What of a data set is trained on and evaluated, why nothing is, and under which categories."""

__all__ = ["nothing_usable", "objects_of", "with_categories"]


def objects_of(coco: dict) -> list[dict]:
    """The annotations that are objects: boxes of an area in known images; crowd regions are none.

    Args:
        coco: a COCO dict without errors (see `check_annotations`).
    """
    images = {each["id"] for each in coco["images"]}
    return [
        each
        for each in coco.get("annotations", [])
        if not each.get("iscrowd") and each["image_id"] in images and min(each["bbox"][2:]) > 0
    ]


def nothing_usable(coco: dict, of: str) -> str:
    """Why there is none of `objects_of`, for people.

    Args:
        of: what they call the data set.
    """
    annotations = coco.get("annotations", [])
    crowds = sum(bool(each.get("iscrowd")) for each in annotations)
    if not annotations:
        return f"{of} has no annotations, so nothing to learn from or to evaluate on"
    if crowds < len(annotations):
        return (
            f"{of} has no object: of {len(annotations)} annotations, {crowds} are crowd regions "
            "(iscrowd 1), and the others are of no known image, or boxes without an area"
        )
    return (
        f"{of}: all {crowds} annotations are crowd regions (iscrowd 1), of which nothing is learnt "
        "or evaluated. Where they are objects, as which CVAT exports masks, fine-tune with "
        "--crowd-as-objects, or write a file with `d2-regnet check-dataset --crowd-as-objects "
        "--fix-to NEW.json`"
    )


def with_categories(coco: dict, categories: list[dict], of: str, owner: str) -> dict:
    """Another COCO dict, with other categories; annotations keep theirs by name.

    Args:
        categories: `id` and `name` each.
        of, owner: what the user calls the data set, and what has those categories.

    Raises:
        ValueError: it has a class that they do not have, or two of one name.
    """
    names, known = [each["name"] for each in coco["categories"]], {}
    for each in categories:
        known.setdefault(each["name"], each["id"])
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"{of}: {len(unknown)} of its {len(names)} classes cannot be matched: it has the class "
            f"{unknown[0]!r}, which {owner} does not have: {', '.join(list(known)[:10])}"
            f"{', ...' if len(known) > 10 else ''}"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"{of}: two of its classes have the same name")
    new = {each["id"]: known[each["name"]] for each in coco["categories"]}
    annotations = [
        each | {"category_id": new[each["category_id"]]} for each in coco.get("annotations", [])
    ]
    changed = {"annotations": annotations} if "annotations" in coco else {}
    return coco | {"categories": categories} | changed
