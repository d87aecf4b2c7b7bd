"""The images of a COCO file, predicted under its ids, so that predictions can be scored."""

import itertools
import os
from pathlib import Path

from detectron2.data.catalog import Metadata

from d2_regnet.data.checks import check_annotations
from d2_regnet.data.findings import refuse_errors
from d2_regnet.data.formats import read_dataset
from d2_regnet.data.image_checks import refuse_unusable

from .inputs import File, Source, apart, target_of_image

__all__ = ["listed_sources", "with_category_ids"]


def listed_sources(
    images: str, annotations: str, output: str | os.PathLike
) -> tuple[list[Source], list[dict], list[str]]:
    """The images that a COCO file lists, in its order, each with its entry.

    Args:
        images: their folder.
        annotations: the file; of its annotations nothing is read.
        output: see `find_sources`.

    Returns:
        The images, the file's categories, and lines to tell the user.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is not COCO's, ids are not whole numbers (an image's may be a text) or not
            unique, or an image is missing, unreadable or of another size.
    """
    if not os.path.isfile(annotations):
        raise FileNotFoundError(
            f"--data: {annotations} is no file: give COCO's, whose ids are kept"
        )
    coco, account = read_dataset(images, annotations, "coco")
    lists = {key: coco[key] for key in ("images", "categories")}
    remedy = "Predictions have the ids of the file, so they must be whole and unique"
    refuse_errors(check_annotations(lists), f"--data: {annotations}", remedy)
    refuse_unusable(coco["images"], images, f"--data: {annotations}")
    files = [os.path.join(images, each["file_name"]) for each in coco["images"]]
    common = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    sources: list[Source] = [
        File(file, target_of_image(Path(output, os.path.relpath(file, common))), entry)
        for file, entry in zip(files, coco["images"])
    ]
    return apart(sources), coco["categories"], account.lines()


def with_category_ids(metadata: Metadata, categories: list[dict], of: str) -> Metadata:
    """The classes of a model under the ids that a COCO file has for them, by name; what it does not
    have gets ids above.

    Args:
        categories: the file's.
        of: what the user calls it.

    Raises:
        ValueError: it has none of the model's classes, or two of one name.
    """
    known = {each["name"]: each["id"] for each in categories}
    names = metadata.thing_classes
    if len(known) < len(categories) or not known.keys() & set(names):
        what = "two classes of one name" if len(known) < len(categories) else "none of them"
        raise ValueError(
            f"{of} has {what}, so no ids for the model's {len(names)} classes: "
            f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}. To predict its images all "
            "the same, name their folder"
        )
    above = itertools.count(max(known.values()) + 1)
    ids = {known.pop(name) if name in known else next(above): i for i, name in enumerate(names)}
    return Metadata(thing_classes=list(names), thing_dataset_id_to_contiguous_id=ids)
