"""What can be found in a data set: the kinds, and one finding."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeGuard

__all__ = ["DROP", "Finding", "Kind", "refuse_errors"]

DROP = "drop"


class Kind(StrEnum):
    """A kind of finding, by what it is called.

    An error stops Detectron2 or teaches the model what is wrong; what a warning is about,
    Detectron2 leaves out or clips on its own, or only the evaluation needs; a note is for knowing.

    Attributes:
        level: error, warning or note.
    """

    level: str

    def __new__(cls, text: str, level: str):
        kind = str.__new__(cls, text)
        kind._value_, kind.level = text, level
        return kind

    MALFORMED = "malformed entry", "error"
    NOT_A_NUMBER = "number written as text or fraction", "error"
    CATEGORY_TWICE = "duplicate category id", "error"
    IMAGE_TWICE = "duplicate image id", "error"
    ANNOTATION_TWICE = "duplicate annotation id", "error"
    NO_CATEGORY = "unknown category id", "error"
    FORM_OF_BOXES = "boxes of another form", "error"
    IGNORE = "annotated as to be ignored", "error"
    RLE_SIZE = "RLE of a wrong size", "error"
    RLE_BROKEN = "broken RLE", "error"
    POLYGON = "malformed polygon", "error"
    POLYGON_FAR = "polygon far beyond the image", "error"
    IMAGE_MISSING = "missing image", "error"
    IMAGE_UNREADABLE = "unreadable image", "error"
    IMAGE_SIZE = "size contradicts the annotations", "error"
    NO_IMAGE = "unknown image id", "warning"
    BOX_EMPTY = "empty box", "warning"
    BOX_OUTSIDE = "box outside", "warning"
    BOX_BEYOND = "box beyond the edge", "warning"
    POLYGON_SHORT = "polygon of under three points", "warning"
    NO_AREA = "no area", "warning"
    NO_ISCROWD = "no iscrowd", "warning"
    ANNOTATION_0 = "annotation id 0", "warning"
    NAME_TWICE = "two categories of one name", "warning"
    NO_MASK = "no mask, where others have one", "note"
    FILE_TWICE = "one file for several images", "note"
    IMAGE_EMPTY = "image without annotations", "note"
    CATEGORY_EMPTY = "category without annotations", "note"
    CROWD = "crowd", "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found.

    Attributes:
        kind: what it is.
        section, index: the entry that it is about, `coco[section][index]`.
        detail: names the entry and what is wrong with it, for people.
        remedy: what `cleaned` does about it: `DROP` the entry, change fields of it (a dict of
            their new values, None for one that goes), or nothing (None).
    """

    kind: Kind
    section: str
    index: int
    detail: str
    remedy: str | dict | None = None

    @property
    def level(self) -> str:
        return self.kind.level


def refuse_errors(findings: Iterable[Finding], of: str, remedy: str) -> None:
    """
    Raises:
        ValueError: there are errors among them: their number, the first, and the remedy.
    """
    errors = [each for each in findings if each.level == "error"]
    if errors:
        raise ValueError(
            f"{of} has {len(errors)} error(s), the first: {errors[0].kind}: {errors[0].detail}. "
            + remedy
        )


def is_number(value) -> TypeGuard[int | float]:
    # NaN is in no range; the numbers that are, stay finite in float arithmetic.
    return type(value) in (int, float) and -1e100 < value < 1e100


def is_id(value) -> bool:
    return type(value) is int


def where(annotation) -> str:
    if not isinstance(annotation, dict):
        return f"annotation {short(annotation)}"
    return f"annotation {short(annotation.get('id'))} of image {short(annotation.get('image_id'))}"


def short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
