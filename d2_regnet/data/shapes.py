"""The built-in data set: images of six kinds of shapes with exact instance masks, in COCO format.

It stands in for COCO if you have no data, no network or no GPU: small enough to be learnt from
scratch in minutes, varied enough (occlusion, holes, truncation, clutter, noise, textures, sizes
from 20 to 90 pixels) that the COCO metrics mean something.

A seed gives the same bytes on every machine. Numbers come from ``numpy.random.RandomState``, whose
stream NumPy has frozen (NEP 19); every pixel is decided in integers; PNG files are written here,
with stored blocks, because what a compressor makes of an image depends on its version.
"""

import json
import logging
import os
import re
import shutil
import struct
import tempfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json
from iopath.common.file_io import file_lock

__all__ = [
    "CLASSES",
    "SPLITS",
    "build_shapes",
    "register_named_shapes",
    "register_shapes",
    "render",
]

CLASSES = ("circle", "square", "triangle", "star", "ring", "cross")
SPLITS = {"train": 1000, "val": 120}
COLORS = (
    (255, 92, 92),
    (255, 176, 46),
    (94, 220, 94),
    (60, 200, 255),
    (196, 130, 255),
    (255, 255, 90),
)
VERSION = 1  # names the files: raise it with any change that alters a byte of them

# Regular polygons as half-planes: how many normals, the angle of the first, how many must hold, and
# the distance in thousandths of the circumradius. A pentagram is where four of its five hold.
_POLYGONS = {"triangle": (3, 90, 3, 500), "square": (4, 0, 4, 707), "star": (5, 270, 4, 309)}
_FILLS = np.array(  # vivid; backgrounds and clutter are nearly grey
    [
        *[(214, 50, 47), (238, 133, 34), (243, 206, 52), (110, 186, 56), (24, 142, 112)],
        *[(48, 168, 224), (44, 84, 200), (132, 70, 190), (228, 82, 160), (150, 62, 30)],
    ]
)
_SUB = 16  # positions and radii are in sixteenths of a pixel
_ONE = 4096  # the length of a unit vector
# Rounded, so that the last bit of a platform's cos cannot decide a pixel (no entry is near a half).
_TURN = 360
_COS, _SIN = (
    np.rint(_ONE * f(2 * np.pi * np.arange(_TURN) / _TURN)).astype(np.int64)
    for f in (np.cos, np.sin)
)


def _frame(height, width, cx, cy, angle):
    """Pixel centres seen from (cx, cy), turned by `angle`: two int64 (height, width) arrays.

    Positions enter in 1/_SUB pixels, and leave in 1/(_SUB * _ONE) pixels.
    """
    dx = _SUB * np.arange(width, dtype=np.int64) + _SUB // 2 - cx
    dy = (_SUB * np.arange(height, dtype=np.int64) + _SUB // 2 - cy)[:, None]
    c, s = _COS[angle], _SIN[angle]
    return dx * c + dy * s, dy * c - dx * s


def _inside(kind, u, v, radius) -> np.ndarray:
    """Which pixel centres (u, v) of _frame a shape of this circumradius covers; bool (H, W)."""
    r = radius * _ONE
    if kind == "circle":
        return u * u + v * v <= r * r
    if kind == "ring":
        distance = u * u + v * v
        return (distance <= r * r) & (4 * distance >= r * r)
    if kind == "cross":
        u, v = np.abs(u), np.abs(v)
        return (np.maximum(u, v) <= r) & (10 * np.minimum(u, v) <= 3 * r)
    sides, first, needed, distance = _POLYGONS[kind]
    normals = [(first + k * _TURN // sides) % _TURN for k in range(sides)]
    held = sum(
        (1000 * (u * _COS[a] + v * _SIN[a]) <= distance * r * _ONE).astype(int) for a in normals
    )
    return np.asarray(held) >= needed


def _place(draw, height, width):
    """Shapes from back to front: their kinds, and an int64 (H, W) map of which is seen where.

    In the map 0 is the background and k the k-th shape. Every shape keeps at least two
    thirds of itself, and 80 pixels, in sight.
    """
    seen = np.zeros((height, width), np.int64)
    kinds, areas = [], [0]
    wanted = draw(2, 9)
    for _ in range(4 * wanted):
        if len(kinds) == wanted:
            break
        kind = CLASSES[draw(len(CLASSES))]
        radius = draw(12 * _SUB, min(height, width) * _SUB * 2 // 7)
        cx = draw(radius // 2, width * _SUB - radius // 2)
        cy = draw(radius // 2, height * _SUB - radius // 2)
        tilt = draw(-20, 21)  # things mostly stand upright
        u, v = _frame(height, width, cx, cy, tilt)
        mask = _inside(kind, u, v * draw(8, 12) // 8, radius)
        trial = np.where(mask, len(kinds) + 1, seen)
        visible = np.bincount(trial.ravel(), minlength=len(kinds) + 2)[1:]
        full = np.array([*areas[1:], mask.sum()])
        if (visible >= np.maximum(80, 2 * full // 3)).all():
            kinds.append(kind)
            areas.append(full[-1])
            seen = trial
    return kinds, seen


def _shade(draw, height, width, colour, other):
    """`colour` alone, running into `other`, striped or chequered with it; int64 (H, W, 3)."""
    u, v = _frame(height, width, width * _SUB // 2, height * _SUB // 2, draw(_TURN))
    style, period = draw(4), draw(4, 13) * _SUB * _ONE
    if style == 0:
        share = np.zeros_like(u)
    elif style == 1:
        share = np.clip(128 + 256 * u // (height + width) // (_SUB * _ONE), 0, 256)
    elif style == 2:
        share = u // period % 2 * 256
    else:
        share = (u // period + v // period) % 2 * 256
    return colour + (other - colour) * share[..., None] // 256


def _grey(draw):
    """Any grey, slightly tinted; int64 (3,)."""
    return draw(30, 226) + draw(-14, 15, size=3)


def _paint(draw, kinds, seen):
    """The image of a placed scene: uint8 (H, W, 3), RGB."""
    height, width = seen.shape
    fills = _FILLS[np.argsort(draw(1 << 32, size=len(_FILLS)), kind="stable")]
    ground = _grey(draw)
    image = _shade(draw, height, width, ground, ground + draw(-24, 25))
    for _ in range(draw(3, 10)):  # clutter: strokes and specks, in the background only
        cx, cy = draw(width * _SUB), draw(height * _SUB)
        u, v = _frame(height, width, cx, cy, draw(_TURN))
        length, thickness = draw(2, 40) * _SUB * _ONE, draw(6, 20) * _ONE
        image[(np.abs(u) <= length) & (np.abs(v) <= thickness)] = _grey(draw)
    for k, _ in enumerate(kinds, 1):
        colour = fills[k % len(fills)]
        fill = _shade(draw, height, width, colour, colour + draw(-24, 25, size=3))
        image = np.where((seen == k)[..., None], fill, image)
    noise = draw(2, 13)
    image = image + draw(-noise, noise + 1, size=image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def render(seed, split, index):
    """One image of the data set.

    Args:
        seed: 0 to 2**32 - 1.
        split: "train" or "val"; the two share nothing.
        index: the image's number in its split, from 0.

    Returns:
        image: uint8 (H, W, 3), RGB; the long side is 160, the short one 96 to 160 in steps of 8.
        kinds: the shapes' class names, from back to front.
        seen: int64 (H, W); k > 0 where shape ``kinds[k - 1]`` is seen, 0 where the background is.
            What is hidden behind another shape is not part of a mask, as in COCO.
    """
    rng = np.random.RandomState([seed, list(SPLITS).index(split), index])
    draw = partial(rng.randint, dtype=np.int64)  # its usual dtype depends on the platform
    height, width = 160, 8 * int(draw(12, 21))
    if draw(2):
        height, width = width, height
    kinds, seen = _place(draw, height, width)
    return _paint(draw, kinds, seen), kinds, seen


def _png(image):
    """uint8 (H, W, 3) as the bytes of a PNG file with stored (uncompressed) deflate blocks."""
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = image.reshape(height, -1)
    data = rows.tobytes()
    blocks = [data[i : i + 65535] for i in range(0, len(data), 65535)]
    stored = b"".join(
        struct.pack("<BHH", block is blocks[-1], len(block), len(block) ^ 0xFFFF) + block
        for block in blocks
    )
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(data))),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def _run_lengths(mask):
    """A bool (H, W) mask in COCO's uncompressed form: runs column by column, the first of zeros."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def _annotations(kinds, seen):
    """One COCO annotation, short of its ids, for each shape of a scene."""
    for k, kind in enumerate(kinds, 1):
        mask = seen == k
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        x, y = int(columns[0]), int(rows[0])
        yield {
            "category_id": CLASSES.index(kind) + 1,
            "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
            "area": int(mask.sum()),
            "iscrowd": 0,
            "segmentation": _run_lengths(mask),
        }


def _write(folder, seed, split, count):
    """Write `count` images and their annotations.json into an existing folder."""
    coco = {
        "info": {"description": f"d2_regnet shapes {VERSION}, seed {seed}, {split}"},
        "licenses": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)],
        "images": [],
        "annotations": [],
    }
    for index in range(count):
        image, kinds, seen = render(seed, split, index)
        name = f"{index:06d}.png"
        (folder / name).write_bytes(_png(image))
        height, width = seen.shape
        coco["images"].append(
            {"id": index + 1, "file_name": name, "height": height, "width": width}
        )
        for annotation in _annotations(kinds, seen):
            ids = {"id": len(coco["annotations"]) + 1, "image_id": index + 1}
            coco["annotations"].append(ids | annotation)
    (folder / "annotations.json").write_bytes(json.dumps(coco, separators=(",", ":")).encode())


def _cache():
    return Path(os.environ.get("D2_REGNET_CACHE") or Path.home() / ".cache" / "d2_regnet")


def _folder(seed, split, count):
    """Where a split lies; everything that its bytes depend on is in the name."""
    return _cache() / f"shapes_v{VERSION}" / f"seed{seed}_{split}{count}"


def build_shapes(folder, seed, split, count):
    """Makes a split in `folder`, unless it is there: PNG files and annotations.json.

    The folder appears complete or not at all. Of several processes one makes it; the others wait.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(str(folder)):
        if not folder.exists():
            _make(folder, seed, split, count)


def _make(folder, seed, split, count):
    logging.getLogger(__name__).info("Making %d images of shapes in %s", count, folder)
    partial = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
    try:
        _write(partial, seed, split, count)
        partial.chmod(0o755)  # mkdtemp's is private to the user
        try:
            os.replace(partial, folder)
        except OSError:
            if not folder.exists():  # else the lock failed, as on some network file systems
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def register_shapes(seed=0, splits=None):
    """Registers a seed's splits in Detectron2's catalogs; their files are made on first use.

    These go below the folder that the environment variable D2_REGNET_CACHE names, or else below
    ~/.cache/d2_regnet.

    Args:
        seed: 0 to 2**32 - 1.
        splits: how many images by split; default: SPLITS.

    Returns:
        The registered names, split by split: ``shapes_train`` and ``shapes_val`` for what is
        registered on import, seed 0 in its usual size; else such as ``shapes_seed7_train1000``.

    Raises:
        ValueError: an impossible seed, split or count.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"the seed must be a whole number from 0 to {2**32 - 1}, not {seed!r}")
    splits = SPLITS if splits is None else splits
    for split, count in splits.items():
        if split not in SPLITS:
            raise ValueError(f"no split {split!r} of the shapes: there are {', '.join(SPLITS)}")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(
                f"split {split!r} must have a whole number of images, at least 1, not {count!r}"
            )
    return [_register(seed, split, count) for split, count in splits.items()]


def register_named_shapes(name):
    """Registers the shapes that such a name means; does nothing about any other name."""
    if match := re.fullmatch(r"shapes_seed(\d+)_(train|val)(\d+)", name):
        register_shapes(int(match[1]), {match[2]: int(match[3])})


def _register(seed, split, count):
    default = seed == 0 and count == SPLITS[split]
    name = f"shapes_{split}" if default else f"shapes_seed{seed}_{split}{count}"
    if name in DatasetCatalog:
        return name
    folder = _folder(seed, split, count)
    json_file = str(folder / "annotations.json")

    def load():
        build_shapes(folder, seed, split, count)
        return load_coco_json(json_file, str(folder), name)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        thing_classes=list(CLASSES),
        thing_colors=list(COLORS),
        json_file=json_file,
        image_root=str(folder),
        evaluator_type="coco",
    )
    return name
