"""YOLO (Ultralytics, Darknet): a text file an image, of one line an object.

https://docs.ultralytics.com/datasets: the class's number, and shares of the image as it is
displayed: a box (centre, size), a polygon, four corners of an oriented box, or a box with
keypoints.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import yaml

from .account import Account
from .reading import Document
from .shape import Shape, numbers

NAME, SUFFIX, UNLABELLED, ONE_IMAGE = "yolo", ".txt", "empty", False

_YAML = (".yaml", ".yml")
_USUAL = ("data.yaml", "dataset.yaml", "data.yml", "classes.txt", "obj.names", "_darknet.labels")


def places(images: Path, annotations: Path) -> tuple[Path, set[Path]]:
    folder = annotations if annotations.is_dir() else _labels_of(images)
    return folder, {file for file, _ in _names_files(images, annotations)}


def _labels_of(images: Path) -> Path:
    """Ultralytics' place of the labels: `labels` for the last `images` in the path, or beside."""
    parts = images.absolute().parts
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        labels = Path(*parts[:last], "labels", *parts[last + 1 :])
        if labels.is_dir():
            return labels
        if not any(images.rglob("*.txt")):
            raise FileNotFoundError(f"annotations: there is no folder {labels} beside {images}")
    return images


def _names_files(images: Path, annotations: Path) -> Iterator[tuple[Path, dict]]:
    """The files with the classes' names, and what is in them; YAML files first."""
    if annotations.is_file():
        yield annotations, _content(annotations)
        return
    near = dict.fromkeys([annotations, images, *annotations.absolute().parents[:2]])
    files = [Path(folder, name) for name in _USUAL for folder in near]
    for folder in list(near)[:3]:  # one further up may hold other data sets' files
        files += [f for f in sorted(folder.iterdir()) if f.suffix in (".names", *_YAML)]
    for file in dict.fromkeys(files):
        if file.is_file() and (content := _content(file)):
            yield file, content


def _content(file: Path) -> dict:
    """`names` by number, and what else a YAML file says; nothing of one without names."""
    text = _text(file)
    if file.suffix.lower() not in _YAML:
        lines = [line.strip() for line in text.rstrip().splitlines()]
        return {"names": {i: line for i, line in enumerate(lines) if line}}
    try:
        content = yaml.load(text, Loader=yaml.BaseLoader)  # "no" is a name, not a truth value
    except (yaml.YAMLError, RecursionError) as error:
        if file.name not in _USUAL:
            return {}
        raise ValueError(f"{file}: no YAML: {' '.join(str(error).split())}") from error
    names = content.get("names") if isinstance(content, dict) else None
    if not names:
        return {}
    if not isinstance(names, list | dict):
        raise ValueError(f"{file}: its names are neither a list nor numbered: {names!r}")
    try:
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        numbered = {int(i): str(name).strip() for i, name in pairs}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: its names are neither a list nor numbered") from error
    if content.get("nc") not in (None, str(len(numbered))):
        raise ValueError(f"{file}: nc is {content['nc']}, and it has {len(numbered)} names")
    return content | {"names": numbered}


def _text(path: Path) -> str:
    data = path.read_bytes()
    utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not in UTF-8") from error


def load(path: Path) -> Document:
    lines = [line for line in _text(path).splitlines() if line.strip()]
    if lines and not any(re.match(r"[-+.]?\d", line.strip()) for line in lines):
        raise ValueError(f"line 1: {lines[0].split()[0][:20]!r} is not a number")
    return Document(lines, "line")


def context(documents, images: Path, annotations: Path, account: Account) -> SimpleNamespace:
    found = list(_names_files(images, annotations))
    if not found or not found[0][1]:
        raise FileNotFoundError(
            f"annotations: {annotations} is YOLO's, and the names of its classes are missing: put "
            "data.yaml or classes.txt there or one folder above"
        )
    file, content = found[0]
    for other, more in found[1:]:
        if more["names"] != content["names"]:
            account.use("files", 0)
            account.leave_out("files", f"its names of classes are not those of {file}", str(other))
    lists = [key for key in ("train", "val", "test") if str(content.get(key)).endswith(".txt")]
    if lists:
        reason = "a list of images: every image of the folder is taken, named in it or not"
        account.leave_out("files", reason, f"{content[lists[0]]} of {file.name}")
    return SimpleNamespace(
        names=content["names"],
        file=file.name,
        pose=_values_of_pose(content.get("kpt_shape"), documents),
        corners=_all_have_four_corners(documents),
    )


def _values_of_pose(shape, documents) -> int | None:
    """How many numbers a box with keypoints has; None for other boxes.

    Without `kpt_shape`, lines that all have one length, and 0, 1 or 2 (the visibility) as every
    third number after the box, are taken for keypoints: polygons are not like that.
    """
    if shape:
        try:
            points, dimensions = map(int, shape)
        except (TypeError, ValueError) as error:
            raise ValueError(f"kpt_shape is {shape!r}, not [points, 2 or 3]") from error
        return 4 + points * dimensions
    lines = [line.split() for document in documents for line in document.objects]
    lengths = {len(values) - 1 for values in lines}
    if len(lengths) != 1 or min(lengths) < 7 or (min(lengths) - 4) % 3:
        return None
    visible = all(value in ("0", "1", "2") for values in lines for value in _visibilities(values))
    return lengths.pop() if visible else None


def _visibilities(values: list[str]) -> list[str]:
    return [value.removesuffix(".0").split(".000")[0] for value in values[7::3]]


def _all_have_four_corners(documents) -> bool:
    lengths = Counter(len(line.split()) for document in documents for line in document.objects)
    return set(lengths) == {9}


def convert(line: str, size: tuple[int, int], context) -> Shape:
    number, *values = numbers(line.split())
    if number not in context.names:
        known = ", ".join(f"{i} {name}" for i, name in list(context.names.items())[:5])
        raise ValueError(f"class {number:g} has no name in {context.file} ({known})")
    name, count = context.names[number], len(values)
    if count != 4 and count != context.pose and (count < 5 or (count % 2 and count > 5)):
        raise ValueError(f"it has {count} numbers after the class, which is no box and no polygon")
    if values and (max(values[:4]) > 2 or min(values[:4]) < -1):
        raise ValueError(
            f"{line.strip()[:60]!r} is beyond the image: YOLO's numbers are shares of its size, "
            "from 0 to 1, not pixels"
        )
    width, height = size
    if count in (4, 5) or count == context.pose:
        x, y, w, h = values[:4]
        box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        remarks = ("a fifth number (a prediction's score?) is not read",) if count == 5 else ()
        if count == context.pose:
            remarks = ("its keypoints are not read",)
        return Shape(name, box, None, None, remarks)
    outline = [value * side for value, side in zip(values, [width, height] * (count // 2))]
    remarks = ()
    if context.corners:
        remarks = ("four corners, as all have: if these are oriented boxes, they are no outlines",)
    return Shape(name, None, [outline], None, remarks)
