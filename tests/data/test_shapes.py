"""The built-in shapes: the same bytes everywhere, exact masks, valid COCO, made once and whole."""

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from matplotlib.path import Path as Outline
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2_regnet.data import register_shapes, shapes
from d2_regnet.data.shapes import CLASSES, SPLITS, build_shapes, render

# If these change, raise shapes.VERSION: users have the old files in their caches.
SHA256 = {
    "000000.png": "e3c6e705fc89f75ec47c8d88a35903b0598cab0ab9ac77817aa1b899ea4ebcef",
    "000001.png": "1eb1f1645f5c00def068cb1ec8574bfa6eadda8d2c643a5364cfe0c2fa93cf9b",
    "annotations.json": "9fa3ec27cbff7307bc518a0f7a76d6da91a67c8c9fa12f08000c47b02b732934",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Twelve images as files."""
    folder = tmp_path_factory.mktemp("cache") / "val"
    build_shapes(folder, seed=0, split="val", count=12)
    return folder


@pytest.fixture
def register(tmp_path, monkeypatch):
    """register_shapes with its own cache folder, which it returns too; undone afterwards."""
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    registered = []

    def call(*args):
        registered.extend(register_shapes(*args))
        return registered, tmp_path / "cache"

    yield call
    for name in registered:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def decoded(annotation):
    segmentation = annotation["segmentation"]
    if isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *segmentation["size"])
    return coco_mask.decode(segmentation).astype(bool)


def test_a_seed_gives_the_same_bytes(made):
    found = {name: hashlib.sha256((made / name).read_bytes()).hexdigest() for name in SHA256}
    assert found == SHA256


def test_files_hold_what_is_rendered(made):
    coco = json.loads((made / "annotations.json").read_text())
    for index in range(12):
        image, kinds, seen = render(0, "val", index)
        assert np.array_equal(cv2.imread(str(made / f"{index:06d}.png"))[..., ::-1], image)
        own = [each for each in coco["annotations"] if each["image_id"] == index + 1]
        assert [CLASSES[each["category_id"] - 1] for each in own] == kinds
        for k, annotation in enumerate(own, 1):
            mask = decoded(annotation)
            assert np.array_equal(mask, seen == k)
            assert annotation["area"] == mask.sum() >= 80
            assert (
                annotation["bbox"]
                == coco_mask.toBbox(
                    coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
                ).tolist()
            )


def test_pictures_are_large_files_of_stored_blocks_that_any_reader_takes(made):
    """Over 65535 bytes of pixels there is more than one block."""
    sizes = [cv2.imread(str(file)).size for file in made.glob("*.png")]
    assert max(sizes) > 65535 > min(sizes)


def test_ground_truth_evaluates_to_100(made, capsys):
    truth = COCO(str(made / "annotations.json"))
    found = truth.loadRes([{**each, "score": 1.0} for each in truth.loadAnns(truth.getAnnIds())])
    for task in ("bbox", "segm"):
        evaluation = COCOeval(truth, found, task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0)


def test_splits_and_seeds_differ_and_are_varied():
    scenes = [render(0, "train", index) for index in range(60)]
    for other in (render(0, "val", 0), render(1, "train", 0)):
        assert other[0].shape != scenes[0][0].shape or (other[0] != scenes[0][0]).any()
    kinds = [kind for _, kinds, _ in scenes for kind in kinds]
    assert min(kinds.count(kind) for kind in CLASSES) > 20
    shapes_seen = {seen.shape for _, _, seen in scenes}
    assert any(h > w for h, w in shapes_seen) and any(h < w for h, w in shapes_seen)
    areas = [(seen == k).sum() for _, kinds, seen in scenes for k in range(1, len(kinds) + 1)]
    assert min(areas) < 16**2 and max(areas) > 58**2
    assert {len(kinds) for _, kinds, _ in scenes} >= {2, 5, 8}


@pytest.mark.parametrize(
    "kind, radius, rows",
    [
        # Pixels (x, y) from the centre with x*x + y*y <= 1.5**2.
        ("circle", 24, [".....", ".###.", ".###.", ".###.", "....."]),
        # 1 <= x*x + y*y <= 2**2: the hole is the centre pixel alone.
        ("ring", 32, ["..#..", ".###.", "##.##", ".###.", "..#.."]),
        # Arms of 2 pixels, 0.6 to each side.
        ("cross", 32, ["..#..", "..#..", "#####", "..#..", "..#.."]),
        # Half a side is 0.707 * 2 pixels.
        ("square", 32, [".....", ".###.", ".###.", ".###.", "....."]),
        # The base is 1 below the centre, the sides meet 2 above it.
        ("triangle", 32, ["..#..", "..#..", ".###.", ".###.", "....."]),
    ],
)
def test_small_shapes_by_hand(kind, radius, rows):
    u, v = shapes._frame(5, 5, 40, 40, 0)  # the centre of pixel (2, 2), in sixteenths
    mask = shapes._inside(kind, u, v, radius)
    assert ["".join(".#"[int(on)] for on in row) for row in mask] == rows


def outlines(kind, radius):
    """Corners of a polygonal shape with y downwards, from trigonometry."""

    def polygon(count, first, *radii):
        angles = np.radians(first + np.arange(count) * 360 / count)
        lengths = np.resize(radii, count)
        return np.stack([lengths * np.cos(angles), lengths * np.sin(angles)], axis=1)

    if kind == "triangle":
        return polygon(3, -90, radius)
    if kind == "square":
        return polygon(4, 45, radius)
    if kind == "star":  # the inner corners of a pentagram
        inner = radius * np.sin(np.pi / 10) / np.sin(3 * np.pi / 10)
        return polygon(10, -90, radius, inner)
    a, b = radius, 0.3 * radius
    quarter = [(a, -b), (a, b), (b, b)]
    turned = [(x, y) for x, y in quarter]
    corners = []
    for _ in range(4):
        corners += turned
        turned = [(-y, x) for x, y in turned]
    return np.array(corners)


@pytest.mark.parametrize("kind", ["triangle", "square", "star", "cross"])
@pytest.mark.parametrize("angle", [0, 17, -20, 90])
def test_shapes_are_those_of_trigonometry(kind, angle):
    radius, cx, cy = 30.0, 41.5, 38.25
    u, v = shapes._frame(80, 80, int(cx * 16), int(cy * 16), angle)
    mask = shapes._inside(kind, u, v, int(radius * 16))
    turn = np.radians(angle)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    centres = np.stack(np.meshgrid(np.arange(80) + 0.5, np.arange(80) + 0.5), axis=-1).reshape(
        -1, 2
    )
    # The corners of shapes are in thousandths of the radius: 0.03 pixels here.
    for scale, holds in (
        (0.995, lambda inner: mask[inner].all()),
        (1.005, lambda outer: outer[mask].all()),
    ):
        corners = outlines(kind, scale * radius) @ rotation + (cx, cy)
        assert holds(Outline(corners).contains_points(centres).reshape(80, 80))
    assert mask.sum() > 500


def test_every_shape_stays_in_sight(monkeypatch):
    """80 pixels of it, and two thirds of what there would be without the shapes before it."""
    whole = []

    def inside(*args, original=shapes._inside):
        whole.append(original(*args))
        return whole[-1]

    monkeypatch.setattr(shapes, "_inside", inside)
    hidden = 0
    for index in range(30):
        whole.clear()
        _, kinds, seen = render(3, "train", index)
        assert set(np.unique(seen)) - {0} == set(range(1, len(kinds) + 1))
        for k in range(1, len(kinds) + 1):
            visible = seen == k
            placed = next(
                mask for mask in whole if mask[visible].all() and mask.sum() < 1.6 * visible.sum()
            )
            assert visible.sum() >= max(80, placed.sum() * 2 // 3)
            hidden += placed.sum() > visible.sum()
    assert hidden > 10


def test_import_touches_no_file(tmp_path):
    code = (
        "from d2_regnet.data import shapes\n"
        "from detectron2.data import DatasetCatalog, MetadataCatalog\n"
        "assert {'shapes_train', 'shapes_val'} <= set(DatasetCatalog.list())\n"
        "print(MetadataCatalog.get('shapes_val').json_file)\n"
    )
    cache = tmp_path / "cache"
    env = {**os.environ, "D2_REGNET_CACHE": str(cache), "PYTHONPATH": os.getcwd()}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip().startswith(str(cache))
    assert not cache.exists()


def test_registered_splits_are_made_when_first_loaded(register):
    (train, val), cache = register(11, {"train": 3, "val": 2})
    assert (train, val) == ("shapes_seed11_train3", "shapes_seed11_val2")
    assert not cache.exists()
    assert len(DatasetCatalog.get(train)) == 3
    records = DatasetCatalog.get(val)
    assert len(records) == 2 and all(os.path.isfile(each["file_name"]) for each in records)
    metadata = MetadataCatalog.get(val)
    assert metadata.thing_classes == list(CLASSES) and metadata.evaluator_type == "coco"
    assert len(metadata.thing_colors) == len(CLASSES)
    instance = records[0]["annotations"][0]
    assert instance["bbox_mode"] == BoxMode.XYWH_ABS
    _, kinds, seen = render(11, "val", 0)
    assert CLASSES[instance["category_id"]] == kinds[0]
    assert np.array_equal(decoded(instance), seen == 1)


def test_registered_again_is_the_same(register):
    names, _ = register(12, {"val": 2})
    assert register_shapes(12, {"val": 2}) == names
    assert register_shapes() == ["shapes_train", "shapes_val"]
    assert register_shapes(0, dict(SPLITS)) == ["shapes_train", "shapes_val"]


def test_files_are_made_once(made):
    before = {file: file.stat().st_mtime_ns for file in made.iterdir()}
    build_shapes(made, seed=0, split="val", count=12)
    assert {file: file.stat().st_mtime_ns for file in made.iterdir()} == before


def test_made_by_several_at_once(tmp_path, made):
    folder = tmp_path / "cache" / "val"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: build_shapes(folder, 0, "val", 12), range(4)))
    assert sorted(os.listdir(tmp_path / "cache")) == ["val", "val.lock"]
    for file in made.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()


def test_a_failure_leaves_no_picture(tmp_path, monkeypatch):
    def fail(image):
        raise OSError("disk full")

    monkeypatch.setattr(shapes, "_png", fail)
    with pytest.raises(OSError, match="disk full"):
        build_shapes(tmp_path / "cache" / "val", 0, "val", 2)
    assert os.listdir(tmp_path / "cache") == ["val.lock"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((-1,), "seed must be a whole number from 0 to 4294967295, not -1"),
        ((2**32,), "seed"),
        ((1.5,), "seed"),
        ((True,), "seed"),
        ((0, {"test": 3}), "no split 'test' of the shapes: there are train, val"),
        ((0, {"val": 0}), "split 'val' must have a whole number of images, at least 1, not 0"),
        ((0, {"val": 2.0}), "split 'val'"),
    ],
)
def test_impossible_requests_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        register_shapes(*arguments)


def test_made_once_by_four_processes(tmp_path, monkeypatch):
    """They start at once; one makes the images, and the others wait for them."""
    context = multiprocessing.get_context("fork")
    barrier, write = context.Barrier(4), shapes._write

    def counted(folder, *arguments):
        with open(tmp_path / "made", "a") as file:
            file.write("once\n")
        write(folder, *arguments)

    def make():
        barrier.wait()
        shapes.build_shapes(tmp_path / "shapes", 0, "val", 3)
        assert len(list((tmp_path / "shapes").glob("*.png"))) == 3

    monkeypatch.setattr(shapes, "_write", counted)
    processes = [context.Process(target=make) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "made").read_text() == "once\n"
