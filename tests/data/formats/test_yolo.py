"""YOLO's label files of Ultralytics, Darknet, LabelImg, Label Studio and Roboflow."""

import pytest

from d2_regnet.data.formats import read_dataset

WIDTH, HEIGHT = 160, 120
BOX = "0 0.5 0.5 0.25 0.5"
BOX_IN_PIXELS = [60, 30, 40, 60]
TRIANGLE = "0 0.25 0.25 0.5 0.25 0.5 0.75"


def read(maker, lines, names="names: [cap, dog]\n", **options):
    maker.image()
    maker.yolo(lines=lines, names=names)
    coco, account = read_dataset(maker.images, maker.labels, **options)
    text = lines.decode("utf-8-sig") if isinstance(lines, bytes) else lines
    assert account.total("objects") == sum(bool(line.strip()) for line in text.splitlines())
    return coco, account


@pytest.mark.parametrize(
    "line",
    [
        BOX,
        "0.0 5e-1 .5 2.5E-1 0.500000",
        f"\n\n  {BOX}  \n\n",
        f"{BOX}\r\n".encode(),
        b"\xef\xbb\xbf" + BOX.encode(),
        BOX.replace(" ", "\t"),
    ],
)
def test_boxes(maker, line):
    coco, account = read(maker, line)
    [found] = coco["annotations"]
    assert found["bbox"] == pytest.approx(BOX_IN_PIXELS) and "segmentation" not in found
    assert account.lines() == []


def test_one_box_among_polygons_takes_no_mask_away(maker):
    coco, _ = read(maker, f"{TRIANGLE}\n{BOX}\n{TRIANGLE.replace('0.75', '0.8')}\n")
    found = [each.get("segmentation") for each in coco["annotations"]]
    assert found[0] == [pytest.approx([40, 30, 80, 30, 80, 90])] and found[1] is None and found[2]


def test_four_corners_are_said(maker):
    coco, account = read(maker, "0 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5")
    assert coco["annotations"][0]["bbox"] == [40, 30, 40, 30]
    assert "oriented boxes" in account.lines()[0]
    _, account = read(maker, f"0 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5\n{TRIANGLE}")
    assert account.lines() == []


@pytest.mark.parametrize(
    ("line", "more"),
    [
        (f"{BOX} 0.4 0.4 0.6 0.6", "kpt_shape: [2, 2]"),
        (f"{BOX} 0.4 0.4 2 0.6 0.6 1", "kpt_shape: [2, 3]"),
        (f"{BOX} 0.4 0.4 2 0.6 0.6 1", ""),  # the visibility tells
        (f"{BOX} 0.4 0.4 2.0 0.6 0.6 1.0 0 0 0", ""),
    ],
)
def test_keypoints_are_no_polygon(maker, line, more):
    coco, account = read(maker, line, f"names: [cap]\n{more}\n")
    [found] = coco["annotations"]
    assert found["bbox"] == pytest.approx(BOX_IN_PIXELS) and "segmentation" not in found
    assert "keypoints are not read" in account.lines()[0]


def test_the_score_of_a_saved_prediction_is_said(maker):
    coco, account = read(maker, f"{BOX} 0.87")
    assert coco["annotations"][0]["bbox"] == pytest.approx(BOX_IN_PIXELS)
    assert "a prediction's score?" in account.lines()[0]


def test_copies_and_boxes_without_area_are_counted(maker):
    coco, account = read(maker, f"{BOX}\n{BOX}\n1 0.5 0.5 0.25 0.5\n0 0.5 0.5 0 0.2\n")
    assert len(coco["annotations"]) == 2
    assert [line.split(" (first")[0] for line in account.lines()] == [
        "1 of 4 objects left out: an exact copy of another in its image",
        "1 of 4 objects left out: a box without width or height",
    ]
    assert "a.txt, line 4" in account.lines()[1]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("names: {0: cat, 2: dog, 5: bird}", [(1, "cat"), (3, "dog"), (6, "bird")]),
        ("names:\n  '0': cat\n  '2': dog", [(1, "cat"), (3, "dog")]),
        ("names: [cat, bird, dog]", [(1, "cat"), (2, "bird"), (3, "dog")]),
        ("names: [yes, no, dog]", [(1, "yes"), (2, "no"), (3, "dog")]),
        ("names: [1, 2.50, dog]", [(1, "1"), (2, "2.50"), (3, "dog")]),
    ],
)
def test_names_in_data_yaml(maker, names, expected):
    coco, _ = read(maker, "2 0.5 0.5 0.2 0.2", f"{names}\n")
    assert [(each["id"], each["name"]) for each in coco["categories"]] == expected
    named = {each["id"]: each["name"] for each in coco["categories"]}
    assert named[coco["annotations"][0]["category_id"]] == "dog"


def test_a_blank_line_of_classes_is_a_number(maker):
    maker.image()
    maker.write("a.txt", "2 0.5 0.5 0.2 0.2")
    maker.write("classes.txt", "\ufeffcat\r\n\r\ndog\r\n\r\n")
    coco, _ = read_dataset(maker.images, maker.labels)
    assert [(each["id"], each["name"]) for each in coco["categories"]] == [(1, "cat"), (3, "dog")]
    assert coco["annotations"][0]["category_id"] == 3


def test_two_files_of_names_that_differ_are_said(maker):
    maker.write("classes.txt", "dog\nperson\n")
    _, account = read(maker, BOX)
    assert "names of classes are not those of" in account.lines()[0]
    assert "classes.txt" in account.lines()[0]


def test_lists_of_images_are_said(maker):
    _, account = read(maker, BOX, "path: .\ntrain: autosplit_train.txt\nnames: [cap]\n")
    assert "every image of the folder is taken" in account.lines()[0]


def test_an_image_without_a_label_file_shows_nothing(maker):
    maker.image("b.jpg")
    coco, account = read(maker, BOX)
    assert len(coco["images"]) == 2 and "1 of 2 images: no .txt file" in account.lines()[0]
    coco, account = read(maker, BOX, unlabelled="skip")
    assert len(coco["images"]) == 1 and "1 of 2 images left out" in account.lines()[0]


def test_turned_images_are_taken_as_displayed(maker):
    maker.image(turn=6)
    maker.yolo(lines=BOX)
    coco, account = read_dataset(maker.images, maker.labels)
    assert coco["images"][0]["width"] == HEIGHT
    assert coco["annotations"][0]["bbox"] == pytest.approx([45, 40, 30, 80])
    assert "turned or mirrored by EXIF" in account.lines()[0]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/train", "labels/train"),
        ("images", "labels"),
        ("train/images", "train/labels"),
        ("images/mine/images", "images/mine/labels"),  # the last one is meant
        ("photos", "photos"),
    ],
)
@pytest.mark.parametrize("given", ["folder", "file"])
def test_places(maker, images, labels, given):
    maker.images, maker.labels = maker.root / "set" / images, maker.root / "set" / labels
    for name in ("a", "cam1/a", "cam2/deep/b"):
        maker.image(f"{name}.jpg")
        maker.write(f"{name}.txt", BOX)
    file = maker.labels.parent / "data.yaml"
    file.write_text("names: [cap]")
    coco, account = read_dataset(maker.images, file if given == "file" else maker.labels)
    assert len(coco["images"]) == len(coco["annotations"]) == 3
    assert len({each["image_id"] for each in coco["annotations"]}) == 3
    assert account.used["label files"] == 3


def test_a_whole_data_set_as_both_folders(maker):
    for part in ("train", "val"):
        maker.images, maker.labels = (maker.root / part / each for each in ("images", "labels"))
        maker.image("1.jpg")
        maker.write("1.txt", f"{'train val'.split().index(part)} 0.5 0.5 0.5 0.5")
    (maker.root / "data.yaml").write_text("names: [cap, dog]")
    coco, _ = read_dataset(maker.root, maker.root, "yolo")
    names = {each["id"]: each["file_name"] for each in coco["images"]}
    found = {names[each["image_id"]]: each["category_id"] for each in coco["annotations"]}
    assert found == {"train/images/1.jpg": 1, "val/images/1.jpg": 2}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("7 0.5 0.5 0.2 0.2", r"class 7 has no name in data.yaml \(0 cap, 1 dog\)"),
        ("-1 0.5 0.5 0.2 0.2", "class -1 has no name"),
        ("0.5 0.5 0.5 0.2 0.2", "class 0.5 has no name"),
        ("0 80 60 40 60", "shares of its size, from 0 to 1, not pixels"),
        ("0 40 30 80 30 80 90", "not pixels"),
        ("0 0,5 0,5 0,2 0,2", "'0,5' is not a number"),
        ("cap 0.5 0.5 0.2 0.2", "'cap' is not a number"),
        ("0 0.5 0.5 0.2", "it has 3 numbers after the class"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "it has 7 numbers after the class"),
        ("0 0.5 nan 0.2 0.2", "not a finite number"),
        ("0 0.5 0_5 0.2 0.2", "'0_5' is not a number"),
        ("0", "it has 0 numbers"),
    ],
)
def test_what_cannot_be_understood_is_refused(maker, line, said):
    with pytest.raises(
        ValueError, match=rf"cannot be read as yolo: 1 problem.*a\.txt, line 2: .*{said}"
    ):
        read(maker, f"1 0.5 0.5 0.2 0.2\n{line}\n")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("names: 3", "neither a list nor numbered"),
        ("names: {a: cat}", "neither a list nor numbered"),
        ("names: [", "data.yaml: no YAML"),
        ("names: [cap]\nkpt_shape: many", "kpt_shape is 'many'"),
    ],
)
def test_odd_names_are_refused(maker, names, said):
    with pytest.raises(ValueError, match=said):
        read(maker, BOX, names)


def test_classes_that_are_not_utf8(maker):
    maker.image()
    maker.write("a.txt", BOX)
    maker.write("classes.txt", "caf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classes.txt is not in UTF-8"):
        read_dataset(maker.images, maker.labels)


def test_names_of_darknet_exports(maker):
    maker.image()
    maker.write("a.txt", BOX)
    maker.write("_darknet.labels", "cap\ndog\n")
    coco, account = read_dataset(maker.images, maker.labels)
    assert [each["name"] for each in coco["categories"]] == ["cap", "dog"] and not account.lines()


@pytest.mark.parametrize("name", ["a.jpg.txt", "a.TXT"])
def test_label_files_named_after_the_whole_image(maker, name):
    maker.image()
    maker.yolo(name, BOX)
    coco, account = read_dataset(maker.images, maker.labels)
    assert [each["bbox"] for each in coco["annotations"]] == [BOX_IN_PIXELS]
    assert not account.lines()


def test_a_data_set_without_an_object_says_why(maker):
    maker.image()
    maker.yolo("other.txt", BOX)
    said = "or no object that can be used; 1 of 1 label files left out: there is no image of its"
    with pytest.raises(ValueError, match=said):
        read_dataset(maker.images, maker.labels)


def test_another_number_of_names_is_refused(maker):
    maker.image()
    maker.yolo(lines=BOX, names="nc: 3\nnames: [cap, dog]\n")
    with pytest.raises(ValueError, match="nc is 3, and it has 2 names"):
        read_dataset(maker.images, maker.labels)
