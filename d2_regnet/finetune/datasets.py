"""The data sets to train and to evaluate on: read, checked, and with the same classes."""

import random
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median

from d2_regnet.data.cleaning import crowd_as_objects, mended
from d2_regnet.data.findings import refuse_errors
from d2_regnet.data.formats import read_dataset
from d2_regnet.data.image_checks import check_images, refuse_unusable
from d2_regnet.data.objects import nothing_usable, objects_of, with_categories

__all__ = ["DataSet", "read_datasets"]

_LOOKED_AT = 100  # images whose headers are read


@dataclass(frozen=True)
class DataSet:
    """One data set in COCO's format.

    Attributes:
        folder: of the images, absolute.
        coco: the annotations.
        file: where they lie; None if they were converted or changed, and are to be written.
        origin: what the user calls it.
    """

    folder: str
    coco: dict
    file: str | None
    origin: str

    @cached_property
    def categories(self) -> list[dict]:
        """`id` and `name` of each class, in the order of the model's."""
        ordered = sorted(self.coco["categories"], key=lambda each: each["id"])
        return [{"id": each["id"], "name": each["name"]} for each in ordered]

    @cached_property
    def classes(self) -> list[str]:
        return [each["name"] for each in self.categories]

    @property
    def pictures(self) -> int:
        return len(self.coco["images"])

    @property
    def objects(self) -> int:
        """Those that are trained on; crowds are none."""
        return self.by_image.total()

    @property
    def crowds(self) -> int:
        return sum(bool(each.get("iscrowd")) for each in self.coco.get("annotations", []))

    @cached_property
    def by_image(self) -> Counter:
        """How many objects each image that shows one has, by its id."""
        return Counter(each["image_id"] for each in objects_of(self.coco))

    @cached_property
    def masks(self) -> list:
        """The objects' segmentations, None for one that has none."""
        return [each.get("segmentation") or None for each in objects_of(self.coco)]

    @property
    def short_edge(self) -> int:
        """The median of the images' shorter sides, in pixels."""
        return int(median(min(each["width"], each["height"]) for each in self.coco["images"]))

    @property
    def aspect(self) -> float:
        """The median of long over short side."""
        sides = [sorted((each["width"], each["height"])) for each in self.coco["images"]]
        return median(long / short for short, long in sides)


def read_datasets(
    train: tuple[str, str],
    val: tuple[str, str] | None,
    *,
    format: str | None = None,
    unlabelled: str | None = None,
    crowds: bool = False,
    share: float = 0.2,
    seed: int = 0,
) -> tuple[DataSet, DataSet, list[str]]:
    """Reads and checks both.

    Args:
        train, val: the folder of the images, and the annotations (see `data.formats`). Without
            `val`, a random share of the training images is set apart.
        format, unlabelled: see `data.formats.read_dataset`.
        crowds: take crowd regions for objects, as which CVAT exports masks.
        share: of the images, set apart where there is no `val`; above 0, below 1.
        seed: of the random share.

    Returns:
        Both data sets, and lines to tell the user.

    Raises:
        ValueError: nothing to learn from or to test on, an error that `check_annotations` finds,
            none of the images usable, or a class to test that is not trained.
        FileNotFoundError: a file or folder is missing.
    """
    learnt, notes = _read(train, "--train", format, unlabelled, crowds)
    _check_usable(learnt, "--train")
    if val is None:
        if not 0 < share < 1:
            raise ValueError(f"--val-share is a share between 0 and 1, not {share}")
        learnt, tested = _split(learnt, share, seed)
        notes.append(
            f"no --val: {tested.pictures} images, chosen at random with seed {seed}, are set "
            "apart for the evaluation"
        )
    else:
        tested, more = _read(val, "--val", format, unlabelled, crowds)
        notes += [note for note in more if note not in notes]
        _check_usable(tested, "--val")
        tested = in_order(tested, learnt.categories)
        both = _files(learnt) & _files(tested)
        if both:
            notes.append(
                f"{len(both)} images of --val are in --train, too: the AP will be too good"
            )
    return learnt, tested, notes


def in_order(data: DataSet, categories: list[dict]) -> DataSet:
    """With the category ids of --train, or of the weights' classes, by name."""
    if data.categories == categories:
        return data
    coco = with_categories(data.coco, categories, f"--val: {data.origin}", "--train")
    return replace(data, coco=coco, file=None)


def boxes_only(data: DataSet) -> DataSet:
    """The data set without masks."""
    if not any(data.masks):
        return data
    kept = [
        {key: value for key, value in each.items() if key != "segmentation"}
        for each in data.coco["annotations"]
    ]
    return replace(data, coco=data.coco | {"annotations": kept}, file=None)


def _read(
    named: tuple[str, str],
    flag: str,
    format: str | None,
    unlabelled: str | None,
    crowds: bool = False,
) -> tuple[DataSet, list[str]]:
    images, annotations = named
    coco, account = read_dataset(images, annotations, format, unlabelled=unlabelled)
    if crowds:
        coco = crowd_as_objects(coco)
    notes = account.lines()
    coco, findings, lines = mended(was := coco)
    unchanged = not (account.rewritten or crowds) and coco is was
    file = str(Path(annotations).resolve()) if unchanged else None
    data = DataSet(str(Path(images).resolve()), coco, file, str(annotations))
    if flag == "--val":  # an evaluation stops at the first that cannot be used
        refuse_unusable(coco["images"], images, f"{flag}: {annotations}")
    else:
        notes += _look_at_some(coco["images"], images, flag)
    refuse_errors(
        findings,
        f"{flag}: {annotations}",
        f"`d2-regnet check-dataset --json {annotations} --images {images}` lists them, and with "
        "--fix-to NEW.json writes a cleaned file",
    )
    return data, [f"{flag}: {line}" for line in notes + lines]


def _look_at_some(images: list[dict], folder: str, flag: str) -> list[str]:
    some = images[:: max(1, len(images) // _LOOKED_AT)]
    bad = check_images(some, folder)
    if bad and len(bad) == len(some):
        raise ValueError(
            f"{flag}: of {len(some)} images looked at, none can be used; the first: "
            f"{bad[0].kind}: {bad[0].detail}"
        )
    said = f"of {len(some)} images looked at, {len(bad)} cannot be used, such as "
    return [said + bad[0].detail] if bad else []


def _check_usable(data: DataSet, flag: str) -> None:
    if not data.objects:
        raise ValueError(nothing_usable(data.coco, f"{flag}: {data.origin}"))
    if len(set(data.classes)) < len(data.classes):
        twice = next(each for each in data.classes if data.classes.count(each) > 1)
        raise ValueError(f"{flag}: {data.origin} has two classes of the name {twice!r}")


def _split(data: DataSet, share: float, seed: int) -> tuple[DataSet, DataSet]:
    """The images to learn from and those to evaluate on; both have some with objects."""
    images = sorted(data.coco["images"], key=lambda each: str(each["file_name"]))
    random.Random(seed).shuffle(images)
    shown = [each for each in images if each["id"] in data.by_image]
    empty = [each for each in images if each["id"] not in data.by_image]
    if len(shown) < 2:
        raise ValueError(
            f"--train: {data.origin} has one image with objects: give --val IMAGES ANN as well"
        )
    count, more = min(len(shown) - 1, max(1, round(share * len(shown)))), round(share * len(empty))
    apart = shown[:count] + empty[:more]
    return _subset(data, shown[count:] + empty[more:]), _subset(data, apart)


def _subset(data: DataSet, images: list[dict]) -> DataSet:
    ids = {each["id"] for each in images}
    annotations = [each for each in data.coco["annotations"] if each["image_id"] in ids]
    return replace(data, coco=data.coco | {"images": images, "annotations": annotations}, file=None)


def _files(data: DataSet) -> set[str]:
    return {str(Path(data.folder, each["file_name"])) for each in data.coco["images"]}
