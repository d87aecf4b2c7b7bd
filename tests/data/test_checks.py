"""Every finding by the fault that causes it; what is cleaned trains."""

import copy
import json
import random
import time

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from detectron2.data.datasets import load_coco_json
from PIL import Image

from d2_regnet.data import image_checks
from d2_regnet.data.checks import check_annotations, read_coco
from d2_regnet.data.cleaning import cleaned
from d2_regnet.data.findings import DROP, Kind
from d2_regnet.data.image_checks import check_images
from d2_regnet.data.mapper import RobustMapper

SQUARE = [10, 10, 20, 10, 20, 20, 10, 20]


def compressed(mask):
    rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@pytest.fixture
def coco():
    """Three sound images of 40 x 30 and 30 x 40 pixels, six annotations, categories with holes."""
    masks = np.random.RandomState(0).rand(30, 40) < 0.5
    segmentations = [
        [SQUARE],
        [SQUARE, [1, 1, 5, 1, 5, 5]],
        {"size": [30, 40], "counts": [0, 100, 1100]},
        compressed(masks),
    ]
    images = [
        dict(id=i, file_name=f"{i}.png", width=30 if i == 9 else 40, height=40 if i == 9 else 30)
        for i in (3, 5, 9)
    ]
    pairs = [(3, 0), (3, 1), (3, 2), (5, 3), (5, 0), (9, 1)]
    annotations = [
        dict(id=11 + k, image_id=image, category_id=7 if k % 2 else 2, iscrowd=0, area=100.0)
        | dict(bbox=[10, 10, 10, 10], segmentation=copy.deepcopy(segmentations[kind]))
        for k, (image, kind) in enumerate(pairs)
    ]
    categories = [dict(id=2, name="cat"), dict(id=7, name="dog")]
    return dict(info={}, images=images, annotations=annotations, categories=categories)


@pytest.fixture
def folder(coco, tmp_path):
    rng = np.random.RandomState(0)
    for image in coco["images"]:
        pixels = rng.randint(256, size=(image["height"], image["width"], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / image["file_name"])
    return tmp_path


def annotation(**fields):
    return lambda coco: coco["annotations"][3].update(fields)


def image(**fields):
    return lambda coco: coco["images"][1].update(fields)


def without(section, index, key):
    return lambda coco: coco[section][index].pop(key)


def replaced(section, index, entry):
    return lambda coco: coco[section].__setitem__(index, entry)


def appended(section, index, **fields):
    return lambda coco: coco[section].append(coco[section][index] | fields)


NAN, INF = float("nan"), float("inf")
MALFORMED = "malformed entry"
AS_TEXT = "number written as text or fraction"
TWO_POINTS = "polygon of under three points"
# What is done to a sound data set -> what is found, and how many annotations are left of six.
# A sound box outlasts a mask that is none, and a sound mask says where its box is.
FAULTS = {
    "bbox: strings": (annotation(bbox=["1", "2", "3", "4"]), AS_TEXT, 6),
    "bbox: strings without a mask": (annotation(bbox=["1"] * 4, segmentation=[]), AS_TEXT, 6),
    "bbox: nested": (annotation(bbox=[[1, 2, 3, 4]], segmentation=[]), AS_TEXT, 6),
    "bbox: words": (annotation(bbox=["a", 2, 3, 4], segmentation=[]), MALFORMED, 5),
    "bbox: three": (annotation(bbox=[1, 2, 3]), MALFORMED, 6),
    "bbox: none": (annotation(bbox=None), MALFORMED, 6),
    "bbox: NaN": (annotation(bbox=[1, 2, NAN, 4]), MALFORMED, 6),
    "bbox: infinite": (annotation(bbox=[1, 2, INF, 4]), MALFORMED, 6),
    "bbox: huge": (annotation(bbox=[1, 2, 10**400, 4]), MALFORMED, 6),
    "bbox: true": (annotation(bbox=[True, 2, 3, 4]), MALFORMED, 6),
    "bbox: missing": (without("annotations", 0, "bbox"), MALFORMED, 6),
    "id: missing": (without("annotations", 0, "id"), MALFORMED, 6),
    "id: string": (annotation(id="12"), AS_TEXT, 6),
    "id: fraction": (annotation(id=7.0), AS_TEXT, 6),
    "id: word": (annotation(id="a12"), MALFORMED, 6),
    "image id: fraction": (image(id=5.0), AS_TEXT, 6),
    "image id: half": (image(id=5.5), MALFORMED, 4),
    "image_id: string": (annotation(image_id="5"), AS_TEXT, 6),
    "category_id: string": (annotation(category_id="7"), AS_TEXT, 6),
    "category id: fraction": (lambda coco: coco["categories"][1].update(id=7.0), AS_TEXT, 6),
    "iscrowd: string": (annotation(iscrowd="0"), AS_TEXT, 6),
    "iscrowd: null": (annotation(iscrowd=None), AS_TEXT, 6),
    "image_id: missing": (without("annotations", 0, "image_id"), MALFORMED, 5),
    "image_id: list": (annotation(image_id=[3]), MALFORMED, 5),
    "category_id: missing": (without("annotations", 0, "category_id"), MALFORMED, 5),
    "category_id: null": (annotation(category_id=None), MALFORMED, 5),
    "iscrowd: 2": (annotation(iscrowd=2), MALFORMED, 5),
    "annotation: list": (replaced("annotations", 0, [1, 2]), MALFORMED, 5),
    "segmentation: string": (annotation(segmentation="mask"), MALFORMED, 6),
    "image: null": (replaced("images", 1, None), MALFORMED, 4),
    "image: no id": (without("images", 1, "id"), MALFORMED, 4),
    "image: no file_name": (without("images", 1, "file_name"), MALFORMED, 4),
    "image: no width": (without("images", 1, "width"), MALFORMED, 4),
    "image: width 0": (image(width=0), MALFORMED, 4),
    "image: height as string": (image(height="30"), AS_TEXT, 6),
    "image: height as word": (image(height="30 px"), MALFORMED, 4),
    "image: height NaN": (image(height=NAN), MALFORMED, 4),
    "image: height 30.5": (image(height=30.5), MALFORMED, 4),
    "category: no id": (without("categories", 1, "id"), MALFORMED, 3),
    "category: a number for a name": (
        lambda coco: coco["categories"][1].update(name=7),
        MALFORMED,
        6,
    ),
    "category: no name": (without("categories", 1, "name"), MALFORMED, 3),
    "category twice": (appended("categories", 0, name="cow"), "duplicate category id", 6),
    "name twice": (appended("categories", 0, id=8), "two categories of one name", 6),
    "image twice": (appended("images", 0), "duplicate image id", 6),
    "file twice": (appended("images", 0, id=99), "one file for several images", 6),
    "annotation twice": (appended("annotations", 0), "duplicate annotation id", 6),
    "annotation id twice": (
        appended("annotations", 0, bbox=[1, 1, 5, 5]),
        "duplicate annotation id",
        7,
    ),
    "polygon: far": (
        annotation(segmentation=[SQUARE, [1, 1, 401, 1, 5, 5]]),
        "polygon far beyond the image",
        6,
    ),
    "RLE: size as text": (
        annotation(segmentation={"size": ["30", "40"], "counts": [0, 100, 1100]}),
        "RLE of a wrong size",
        6,
    ),
    "area 0": (annotation(area=0), "no area", 6),
    "area: a fraction of the image": (annotation(area=100 / 1200**2), "no area", 6),
    "annotation id 0 twice": (
        lambda coco: [each.update(id=0) for each in coco["annotations"][:2]],
        "duplicate annotation id",
        6,
    ),
    "annotation id 0": (annotation(id=0), "annotation id 0", 6),
    "category unknown": (annotation(category_id=3), "unknown category id", 5),
    "image unknown": (annotation(image_id=4), "unknown image id", 5),
    "empty box": (annotation(bbox=[5, 5, 0, 7]), "empty box", 6),
    "negative box": (annotation(bbox=[5, 5, 4, -7]), "empty box", 6),
    "box to the right": (annotation(bbox=[41.5, 5, 4, 7]), "box outside", 5),
    "box above": (annotation(bbox=[5, -9, 4, 7]), "box outside", 5),
    "box beyond": (annotation(bbox=[30, 5, 20, 7]), "box beyond the edge", 6),
    "polygon of two points": (annotation(segmentation=[[1, 1, 5, 5]]), TWO_POINTS, 6),
    "one of two points": (annotation(segmentation=[SQUARE, [1, 1, 5, 5]]), TWO_POINTS, 6),
    "polygon: odd": (annotation(segmentation=[[1, 1, 5, 5, 1, 1, 2]]), "malformed polygon", 6),
    "polygon: NaN": (annotation(segmentation=[[1, 1, 5, NAN, 1, 1]]), "malformed polygon", 6),
    "polygon: strings": (annotation(segmentation=[["1"] * 6]), "malformed polygon", 6),
    "polygon: flat": (annotation(segmentation=SQUARE), "malformed polygon", 6),
    "RLE: size": (
        annotation(segmentation={"size": [40, 30], "counts": [0, 100, 1100]}),
        "RLE of a wrong size",
        6,
    ),
    "RLE: no size": (annotation(segmentation={"counts": [1200]}), "RLE of a wrong size", 6),
    "RLE: short": (annotation(segmentation={"size": [30, 40], "counts": [9]}), "broken RLE", 6),
    "RLE: negative": (
        annotation(segmentation={"size": [30, 40], "counts": [1300, -100]}),
        "broken RLE",
        6,
    ),
    "RLE: no counts": (annotation(segmentation={"size": [30, 40]}), "broken RLE", 6),
    "RLE: nonsense": (annotation(segmentation={"size": [30, 40], "counts": "~"}), "broken RLE", 6),
    "RLE: of another": (
        annotation(segmentation={"size": [30, 40], "counts": compressed(np.eye(9))["counts"]}),
        "broken RLE",
        6,
    ),
    "mask missing": (
        without("annotations", 0, "segmentation"),
        "no mask, where others have one",
        6,
    ),
    "ignore": (annotation(ignore=1), "annotated as to be ignored", 6),
    "area missing": (without("annotations", 0, "area"), "no area", 6),
    "area: NaN": (annotation(area=NAN), "no area", 6),
    "iscrowd missing": (without("annotations", 0, "iscrowd"), "no iscrowd", 6),
    "crowd": (annotation(iscrowd=1), "crowd", 6),
    "image without annotations": (
        appended("images", 0, id=99, file_name="5.png"),
        "image without annotations",
        6,
    ),
    "category without annotations": (
        appended("categories", 0, id=8, name="cow"),
        "category without annotations",
        6,
    ),
}


def bad(findings):
    return [f for f in findings if f.level != "note"]


def test_nothing_is_found_in_a_sound_data_set(coco, folder):
    findings = check_annotations(coco) + check_images(coco["images"], str(folder), decode=True)
    assert findings == []
    assert cleaned(coco, findings) == (coco, [])


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(coco, fault):
    damage, kind, left = FAULTS[fault]
    damage(coco)
    before = copy.deepcopy(coco)
    findings = check_annotations(coco)
    assert kind in {f.kind for f in findings}  # with what depends on a dropped entry
    fixed, lines = cleaned(coco, findings)
    assert len(lines) >= 6 - left
    assert repr(coco) == repr(before)
    assert bad(check_annotations(fixed)) == [] or kind == "two categories of one name"
    assert len(fixed["annotations"]) == left
    json.dumps(fixed, allow_nan=False)


def test_every_kind_is_tested():
    pictures = {"missing image", "unreadable image", "size contradicts the annotations"}
    assert {kind for _, kind, _ in FAULTS.values()} | pictures == {*Kind} - {
        Kind.FORM_OF_BOXES
    }  # test_boxes.py


def test_remedies_keep_what_is_sound(coco):
    annotation(bbox=[30, -5, 20, 7], segmentation=[SQUARE, [1, 1, 5, 5]])(coco)
    without("annotations", 0, "area")(coco)
    without("annotations", 3, "area")(coco)
    annotation(id=11)(coco)
    fixed = cleaned(coco, check_annotations(coco))[0]["annotations"]
    assert fixed[3]["bbox"] == [30, 0, 10, 2]
    assert fixed[3]["segmentation"] == [SQUARE]
    assert fixed[3]["area"] == fixed[0]["area"] == 100
    assert fixed[3]["id"] == 17  # unused by all


@pytest.mark.parametrize("density", [0, 0.001, 0.03, 0.5, 1])
def test_compressed_masks_of_all_kinds(coco, density):
    rng = np.random.RandomState(1)
    image(width=640, height=480)(coco)
    for _ in range(5):
        mask = rng.rand(480, 640) < density
        annotation(segmentation=compressed(mask))(coco)
        coco["annotations"][4]["segmentation"] = [SQUARE]
        coco["annotations"][3].pop("area", None)
        (finding,) = bad(check_annotations(coco))
        assert finding.kind == "no area" and finding.remedy == {"area": mask.sum()}


def test_any_mixture_is_cleaned_at_once(coco):
    faults = [damage for damage, kind, _ in FAULTS.values() if kind != "two categories of one name"]
    for number in range(150):
        damaged = copy.deepcopy(coco)
        for damage in random.Random(number).sample(faults, 5):
            try:
                damage(damaged)
            except (KeyError, TypeError, AttributeError):  # the entry is damaged already
                continue
        fixed, _ = cleaned(damaged, check_annotations(damaged))
        if fixed["images"] and fixed["categories"]:
            assert bad(check_annotations(fixed)) == []


def test_what_is_cleaned_trains(coco, folder, tmp_path):
    """Detectron2 stops at the damaged file, and loads and maps all of the cleaned one."""
    annotation(segmentation={"size": [40, 30], "counts": [0, 100, 1100]})(coco)
    appended("annotations", 0, bbox=[1, 1, 5, 5])(coco)
    appended("annotations", 0, id=98, category_id=77)(coco)
    appended("annotations", 0, id=99, ignore=1)(coco)
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(coco))
    with pytest.raises((AssertionError, KeyError)):
        load_coco_json(str(path), str(folder), "damaged")
    path.write_text(json.dumps(cleaned(coco, check_annotations(coco))[0]))
    records = load_coco_json(str(path), str(folder), "cleaned")
    mapper = RobustMapper(
        True,
        augmentations=[],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    assert [len(mapper(record)["instances"]) for record in records] == [4, 2, 1]


def test_a_test_set_has_no_annotations(coco):
    del coco["annotations"]
    findings = check_annotations(coco)
    assert {f.kind for f in findings} == {
        "image without annotations",
        "category without annotations",
    }
    assert cleaned(coco, findings) == (coco, [])


@pytest.mark.parametrize("decode", [False, True])
def test_images(coco, folder, decode):
    (folder / "3.png").unlink()
    (folder / "5.png").write_bytes(b"no image")
    Image.new("RGB", (40, 30)).save(folder / "9.png")  # annotated 30 x 40
    findings = check_images(coco["images"], str(folder), decode=decode)
    assert [f.kind for f in findings] == [
        "missing image",
        "unreadable image",
        "size contradicts the annotations",
    ]
    assert "annotated 30 x 40, is 40 x 30" in findings[2].detail
    assert all(f.level == "error" and f.remedy == DROP for f in findings)
    assert cleaned(coco, findings[:2])[0]["annotations"] == coco["annotations"][5:]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_a_cut_file_is_found_by_decoding_or_by_its_missing_end(coco, folder, suffix):
    path = folder / f"3.{suffix}"
    Image.open(folder / "3.png").save(path)
    coco["images"][0]["file_name"] = path.name
    sound = path.read_bytes()
    path.write_bytes(sound + bytes(5000))  # as some cameras do
    assert check_images(coco["images"], str(folder), decode=True) == []
    path.write_bytes(sound[: len(sound) // 2])
    (finding,) = check_images(coco["images"], str(folder), decode=True)
    assert finding.kind == "unreadable image" and finding.index == 0
    assert check_images(coco["images"], str(folder)) == ([] if suffix == "bmp" else [finding])


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("size", [(40, 30), (30, 40)])
def test_a_turned_image_has_two_right_sizes(coco, folder, decode, size):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, 30)).save(folder / "5.png", exif=exif)
    image(width=size[0], height=size[1])(coco)
    assert check_images(coco["images"], str(folder), decode=decode) == []


def test_images_passes_over_what_is_malformed(folder):
    seen = []
    images = [None, {"id": 1}, {"id": 2, "file_name": "3.png", "width": 40, "height": 30}]
    assert check_images(images, str(folder), progress=lambda x: seen.extend(x) or seen) == []
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", "is not JSON"),
        ("[]", "must be an object"),
        ('{"images": []}', "no list of categories"),
        ('{"images": [], "annotations": [], "categories": [{}]}', "empty: its list of images"),
        ('{"images": [{}], "annotations": [], "categories": []}', "empty: its list of categories"),
    ],
)
def test_files_that_are_not_coco(tmp_path, content, message):
    path = tmp_path / "annotations.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"annotations.json.*{message}"):
        read_coco(str(path))


def test_an_interrupt_does_not_wait_for_all_pictures(monkeypatch):
    seen = []

    def look(*args):
        seen.append(args)
        time.sleep(0.01)
        return []

    def interrupted(results):
        raise KeyboardInterrupt

    monkeypatch.setattr(image_checks, "_look_at", look)
    images = [dict(id=i, file_name=f"{i}.png", width=9, height=9) for i in range(1000)]
    with pytest.raises(KeyboardInterrupt):
        check_images(images, "", threads=2, progress=interrupted)
    assert len(seen) < 500
