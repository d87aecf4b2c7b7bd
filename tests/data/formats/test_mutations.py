"""Valid data sets, mutated at random: every object is used or accounted for, or one line says why
nothing is."""

import json
import os
import random
import re
import shutil
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from d2_regnet.data.checks import check_annotations
from d2_regnet.data.formats import read_dataset

SIZE = (64, 48)
IMAGES = ("0.jpg", "1.png", "sub/2.jpg", "sub/3.webp")
VALUES = ("", "x", None, -1, 0, 1e9, "nan", "1,5", True, [], {}, "é", "0x10", 10**400)
NUMERIC = "0123456789-."
NUMBER = re.compile(r"-?\d+(\.\d+)?")


def labelme(rng, image):
    def points(n):
        return [[rng.randint(0, SIZE[0]), rng.randint(0, SIZE[1])] for _ in range(n)]

    kinds = [("polygon", 5), ("rectangle", 2), ("circle", 2), ("line", 2), ("point", 1), (None, 3)]
    shapes = []
    for _ in range(rng.randint(0, 4)):
        kind, count = rng.choice(kinds)
        group = rng.choice([None, None, 1])
        label = rng.choice(["cap", "dog"])
        shapes.append(
            {"label": label, "points": points(count), "group_id": group, "shape_type": kind}
        )
    size = {"imageWidth": SIZE[0], "imageHeight": SIZE[1]}
    return json.dumps(
        {"shapes": shapes, "imagePath": os.path.basename(image), "imageData": None} | size
    )


def voc(rng, image):
    objects = ""
    for _ in range(rng.randint(0, 4)):
        x, y = rng.randint(1, 40), rng.randint(1, 30)
        box = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + rng.randint(0, 20)}</xmax>"
        box += f"<ymax>{y + 9}</ymax>"
        name = rng.choice(["cap", "dog"])
        objects += f"<object><name>{name}</name><bndbox>{box}</bndbox></object>\n"
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
    return f"<annotation><filename>{os.path.basename(image)}</filename>{size}{objects}</annotation>"


def yolo(rng, image):
    lines = []
    for _ in range(rng.randint(0, 4)):
        count = rng.choice([4, 4, 6, 8, 10])
        lines.append(
            " ".join([str(rng.randint(0, 1)), *(f"{rng.random():.3f}" for _ in range(count))])
        )
    return "\n".join(lines)


MAKERS = {"labelme": (labelme, ".json"), "voc": (voc, ".xml"), "yolo": (yolo, ".txt")}


def written(format, data):
    """The objects of one label file, counted in a way of the test's own; None: it is none."""
    try:
        text = data.decode("utf-16" if data[:2] == b"\xff\xfe" else "utf-8-sig")
        if format == "labelme":
            shapes = json.loads(text)["shapes"]
            return len(shapes) if isinstance(shapes, list) else None
        if format == "yolo":
            lines = [line for line in text.splitlines() if line.strip()]
            return (
                len(lines)
                if not lines or any(line.strip()[0] in NUMERIC for line in lines)
                else None
            )
        return len(ElementTree.fromstring(text).findall("object"))
    except (ValueError, KeyError, TypeError, ElementTree.ParseError):
        return None


def retype(rng, format, text):
    """Another value in the place of one number, or of one of JSON's."""
    if format == "labelme" and rng.random() < 0.5:
        content = json.loads(text)
        target = rng.choice([content, *content["shapes"]])
        target[rng.choice(list(target))] = rng.choice(VALUES)
        return json.dumps(content)
    numbers = list(NUMBER.finditer(text))
    if not numbers:
        return text
    chosen = rng.choice(numbers)
    return text[: chosen.start()] + str(rng.choice(VALUES)) + text[chosen.end() :]


def scale(rng, format, text):
    factor = rng.choice([0, 1e-3, 0.5, 2, 640, -1])
    return NUMBER.sub(lambda m: f"{float(m[0]) * factor:g}" if rng.random() < 0.5 else m[0], text)


def drop(rng, format, text):
    """A piece of the text."""
    start = rng.randrange(len(text) + 1)
    return text[:start] + text[start + rng.randint(1, 30) :]


def truncate(rng, format, text):
    return text[: rng.randrange(len(text) + 1)]


def repeat(rng, format, text):
    if format == "voc":
        return re.sub(r"(<object>.*?</object>)", r"\1\1", text, count=1)
    return f"{text}\n{text}" if format == "yolo" else text


def rename(rng, format, text):
    return re.sub("cap|dog", lambda m: rng.choice(["cap", "", " dog ", "__ignore__", "Cap"]), text)


TEXTS = (retype, scale, drop, truncate, repeat, rename)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "latin-1")


@pytest.fixture(scope="module")
def originals():
    """Four images, made once."""
    with tempfile.TemporaryDirectory() as folder:
        for name in IMAGES:
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", SIZE, "gray").save(path)
        yield Path(folder)


def mutated(rng, format, root, originals):
    """Writes a data set; returns the bytes of the label files that are not hidden."""
    make, suffix = MAKERS[format]
    shutil.copytree(originals, root / "img", copy_function=os.symlink)
    (root / "ann").mkdir()
    if format == "yolo":
        (root / "data.yaml").write_text("names: [cap, dog]")
    files = {Path(name).with_suffix(suffix): make(rng, name) for name in IMAGES}
    contents = {path: text.encode() for path, text in files.items()}
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(list(contents))
        what = rng.choice(["text", "text", "text", "encode", "remove", "move", "image", "size"])
        if what == "text" and path in files:
            files[path] = rng.choice(TEXTS)(rng, format, make(rng, "0.jpg"))
            contents[path] = files[path].encode()
        elif what == "encode" and path in files:
            contents[path] = files[path].encode(rng.choice(ENCODINGS), "replace")
        elif what == "remove" and len(contents) > 1:
            contents.pop(path)
        elif what == "move":
            contents[path.with_stem(rng.choice(["gone", ".hidden", "0", "é"]))] = contents.pop(path)
        else:
            image = root / "img" / rng.choice(IMAGES)
            image.unlink(missing_ok=True)
            if what == "image":
                image.with_suffix(rng.choice([".bmp", ".jpeg", ".txt", ".png"])).write_bytes(b"GIF")
            else:
                Image.new("L", rng.choice([(48, 64), (9, 9), SIZE])).save(image)
    for path, content in contents.items():
        target = root / "ann" / path
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
    return [content for path, content in contents.items() if not path.name.startswith(".")]


def check(format, seed, originals):
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        contents = mutated(rng, format, root, originals)
        unlabelled = rng.choice([None, "skip", "empty"])
        try:
            coco, account = read_dataset(root / "img", root / "ann", format, unlabelled=unlabelled)
        except (ValueError, OSError) as error:
            assert "\n" not in str(error) and len(str(error)) < 1200
            assert str(root) in str(error)
            return
    counts = [count for each in contents if (count := written(format, each)) is not None]
    assert account.total("objects") == sum(counts)
    parts = sum(t.count for (_, it), t in account.remarks.items() if "a further part" in it)
    shared = sum(t.count for (_, it), t in account.remarks.items() if "several images" in it)
    assert shared or len(coco["annotations"]) == account.used["objects"] - parts
    assert account.total("label files") >= len(counts)
    assert len(coco["images"]) == account.used["images"]
    assert not [each for each in check_annotations(coco) if each.kind == "malformed entry"]
    json.dumps(coco, allow_nan=False)
    assert all("\n" not in line for line in account.lines())


@pytest.mark.parametrize("format", MAKERS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_every_object_is_used_or_accounted_for(format, seed, originals):
    check(format, seed, originals)


@pytest.mark.slow
@pytest.mark.parametrize("format", MAKERS)
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_of_many_more(format, seed, originals):
    check(format, seed, originals)
