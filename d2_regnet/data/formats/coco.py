"""COCO: one JSON file, as the official one, Roboflow, CVAT and Label Studio write it."""

import contextlib
import os
from pathlib import Path
from urllib.parse import unquote

from d2_regnet.data.checks import is_plain, read_coco
from d2_regnet.data.images import read_header

from .account import Account
from .folders import find_images, slashes
from .reading import TURNED

NAME = "coco"
_LOOKED_AT = 200  # images whose headers are read


def read(images: Path, annotations: Path) -> tuple[dict, Account]:
    """The file's content, and what of it and of the folder is not used.

    Changed are names of files that are only found with `/` for Windows' `\\`, or by their last
    part, which must be that of one image; and Roboflow's category above the others is left out.
    """
    account, written = Account(), read_coco(str(annotations))
    coco = _found(written, images, find_images(images, account, {annotations}), account)
    coco = _without_root(coco, account)
    account.rewritten = coco is not written or not is_plain(str(annotations))
    for thing in ("images", "categories", "annotations"):
        account.use(_THINGS[thing], len(coco.get(thing, [])))
    _say_what_is_turned(coco["images"], images, account)
    return coco, account


_THINGS = {"images": "images", "categories": "classes", "annotations": "objects"}


def _say_what_is_turned(images: list, folder: Path, account: Account) -> None:
    """Of some images: whether EXIF turns any so that the annotated size does not tell."""
    some = images[:: max(1, len(images) // _LOOKED_AT)]
    for image in some:
        with contextlib.suppress(Exception):  # the checks say what is wrong with it
            header = read_header(folder / image["file_name"])
            if header.turned and header.stored == header.displayed:
                account.remark(
                    "images", f"{TURNED} ({len(some)} were looked at)", image["file_name"]
                )


def _found(coco: dict, folder: Path, files: list[Path], account: Account) -> dict:
    """The images by names that are there, and with their sizes."""
    known = {path.relative_to(folder).as_posix() for path in files}
    by_key: list[dict[str, list[str]]] = [{} for _ in _KEYS]
    for name in known:
        for names, key in zip(by_key, _KEYS):
            names.setdefault(key(name), []).append(name)
    images, named = [], set()
    for image in coco["images"]:
        written = image.get("file_name") if isinstance(image, dict) else None
        if not isinstance(written, str):
            images.append(image)
            continue
        name = written
        if written not in known and not (folder / written).exists():
            found = (names.get(key(slashes(written)), []) for names, key in zip(by_key, _KEYS))
            name = next((each[0] for each in found if len(each) == 1), written)
        if name != written:
            text = "found by another name than the file has"
            account.remark("images", text, f"{written}, which is {name}")
            image = image | {"file_name": name}
        images.append(_sized(image, folder, account))
        named.add(os.path.relpath(folder / name, folder).replace(os.sep, "/"))
    for name in sorted(known - named):
        account.leave_out("images", "of the folder, not in the file", name)
    return coco | {"images": images} if images != coco["images"] else coco


# Under what an image of the folder is looked for: each must be that of one alone.
_KEYS = (
    lambda name: name,
    lambda name: name.rsplit("/", 1)[-1],
    lambda name: unquote(name).rsplit("/", 1)[-1].casefold(),
    lambda name: unquote(name).rsplit("/", 1)[-1].rsplit(".", 1)[0].casefold(),
)


def _sized(image: dict, folder: Path, account: Account) -> dict:
    """With the size of the image as it is displayed, where the file has none."""
    if image.get("width") is not None and image.get("height") is not None:
        return image
    with contextlib.suppress(Exception):  # the checks say what is wrong with it
        width, height = read_header(folder / image["file_name"]).displayed
        account.remark("images", "without a size: that of the file is taken", image["file_name"])
        return image | {"width": width, "height": height}
    return image


def _without_root(coco: dict, account: Account) -> dict:
    """Without a category that is but the `supercategory` of the others, as Roboflow's first is."""
    named = [
        each
        for each in coco["categories"]
        if isinstance(each, dict) and isinstance(each.get("name"), str)
    ]
    above = [each.get("supercategory") for each in named]
    used = {
        a["category_id"]
        for a in coco.get("annotations") or []
        if isinstance(a, dict) and isinstance(a.get("category_id"), int | str)
    }
    root = [
        each
        for each in named
        if each["name"] in above
        and each.get("supercategory") in (None, "none", "")
        and not (isinstance(each.get("id"), int | str) and each["id"] in used)
    ]
    if not root or len(root) == len(named):
        return coco
    for each in root:
        account.leave_out("classes", "the category above the others, without objects", each["name"])
    return coco | {"categories": [each for each in coco["categories"] if each not in root]}
