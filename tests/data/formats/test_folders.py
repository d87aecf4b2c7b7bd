"""Which files are images and label files, and which belong to each other."""

import os
import unicodedata

import pytest

from d2_regnet.data.formats import read_dataset, recognise
from d2_regnet.data.formats.account import Account

BOX = "0 0.5 0.5 0.25 0.5"
XML = (
    "<object><name>cap</name><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>50</ymax>"
    "</bndbox></object>"
)


def read(maker, **options):
    coco, account = read_dataset(maker.images, maker.labels, **options)
    names = {each["id"]: each["file_name"] for each in coco["images"]}
    return [names[each["image_id"]] for each in coco["annotations"]], account


def test_label_files_without_an_image_are_counted_with_their_objects(maker):
    maker.image()
    maker.yolo(lines=BOX)
    maker.write("gone.txt", f"{BOX}\n1 0.5 0.5 0.1 0.1")
    maker.write("README.roboflow.txt", "This data set was exported by a tool.")
    found, account = read(maker)
    assert found == ["a.jpg"] and account.total("label files") == 3
    said = "\n".join(account.lines())
    assert "1 of 3 label files left out: there is no image of its name (first: gone.txt)" in said
    assert "there is no image of its name, and no yolo (first: README" in said
    assert account.total("objects") == 3


def test_hidden_and_other_files_are_counted(maker):
    maker.image()
    for name in ("._a.jpg", ".cache/b.jpg", "Thumbs.db", "raw.dng", "notes"):
        path = maker.images / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    maker.yolo(lines=BOX)
    maker.write("._a.txt", "\0\0")
    found, account = read(maker)
    assert found == ["a.jpg"]
    counts = {key: tally.count for key, tally in account.left_out.items()}
    assert counts == {
        ("images", "hidden"): 2,
        ("label files", "hidden"): 1,
        ("files", ".db, which is not an image's"): 1,
        ("files", ".dng, which is not an image's"): 1,
        ("files", "no suffix, which is not an image's"): 1,
    }


def test_one_folder_for_all(maker):
    maker.labels = maker.images
    maker.image("a.JPG")
    maker.image("b/c.png")
    maker.yolo(lines=BOX)
    maker.write("b/c.txt", BOX)
    found, account = read(maker)
    assert found == ["a.JPG", "b/c.png"] and account.lines() == []


def test_names_that_look_alike_are_one(maker):
    maker.image(unicodedata.normalize("NFD", "é.jpg"))
    maker.yolo(unicodedata.normalize("NFC", "é.txt"), BOX)
    assert len(read(maker)[0]) == 1


def test_names_that_are_not_utf8(maker, capsys):
    name = os.fsdecode(b"caf\xe9")
    maker.image(f"{name}.jpg")
    maker.image()
    maker.yolo(f"{name}.txt", f"{BOX}\n{BOX}")
    found, account = read(maker, unlabelled="skip")
    assert found == [f"{name}.jpg"]
    print("\n".join(account.lines()))
    assert r"caf\udce9.txt, line 2" in capsys.readouterr().out
    maker.write(f"{name}.txt", "x")
    with pytest.raises(ValueError, match="is not a number") as error:
        read(maker)
    print(error.value)


def test_links_are_followed_once(maker):
    far = maker.root / "far"
    far.mkdir()
    maker.image("../far/a.jpg")
    (maker.images / "near").symlink_to(far)
    (maker.images / "again").symlink_to(maker.images)  # a circle
    (maker.images / "b.png").symlink_to(far / "a.jpg")
    maker.yolo("near/a.txt", BOX)
    maker.write("b.txt", BOX)
    assert sorted(read(maker)[0]) == ["b.png", "near/a.jpg"]


def test_flat_labels_of_nested_images(maker):
    maker.image("x/1.jpg")
    maker.image("y/2.jpg")
    for name in ("1", "2"):
        maker.voc(f"{name}.xml", XML, "")
    assert read(maker)[0] == ["x/1.jpg", "y/2.jpg"]


def test_a_name_at_two_places_is_not_guessed(maker):
    for name in ("x/1.jpg", "y/1.jpg", "2.jpg"):
        maker.image(name)
    maker.voc("1.xml", XML, "")
    maker.voc("2.xml", XML, "")
    found, account = read(maker)
    assert found == ["2.jpg"]
    assert "1 of 2 label files left out: several images fit (first: 1.xml)" in account.lines()
    assert account.total("objects") == 2


def test_two_images_of_one_name(maker):
    maker.image("a.jpg")
    maker.image("a.png")
    maker.voc(objects=XML, image="a.png")
    assert read(maker)[0] == ["a.png"]  # the file says which
    maker.voc(objects=XML, image="other.bmp")
    with pytest.raises(ValueError, match=r"a\.xml could describe any of a\.jpg, a\.png"):
        read(maker)
    for file in maker.labels.iterdir():
        file.unlink()
    maker.yolo(lines=BOX)
    found, account = read(maker)
    assert found == ["a.jpg", "a.png"]  # as Ultralytics does
    assert account.total("objects") == 1
    assert "describes several images of its name (first: a.jpg, a.png)" in account.lines()[0]


def test_a_copy_of_a_label_file_is_left_out(maker):
    maker.image()
    maker.voc(objects=XML)
    maker.voc("a (1).xml", XML)
    found, account = read(maker)
    assert found == ["a.jpg"] and account.total("objects") == 2
    assert "its image has another label file (first: a (1).xml)" in account.lines()[0]


def test_images_that_cannot_be_read_are_counted_with_their_objects(maker):
    maker.image()
    (maker.images / "b.jpg").write_bytes(b"no image")
    (maker.images / "c.jpg").touch()
    for name in "abc":
        maker.voc(f"{name}.xml", XML, f"{name}.jpg")
    found, account = read(maker)
    assert found == ["a.jpg"] and account.total("objects") == account.total("images") == 3
    assert "2 of 3 images left out: unreadable" in account.lines()[0]


def test_formats_among_other_files(maker):
    (maker.labels / "sub").mkdir()
    maker.voc("sub/a.xml", XML)
    maker.write("labels.txt", "cap\ndog\n")
    maker.write("_annotations.coco.json", '{"images": [], "categories": [], "annotations": []}')
    assert recognise(maker.labels) == "voc"
    (maker.labels / "sub/a.xml").unlink()
    with pytest.raises(ValueError, match="give COCO's file itself, .*_annotations.coco.json"):
        recognise(maker.labels)


def test_an_account_counts_and_keeps_three_examples():
    account = Account()
    account.use("objects", 6)
    for index in range(4):
        account.leave_out("objects", "a line", f"shape {index}", 2)
        account.remark("objects", "a circle", f"shape\n{index}")
    assert account.total("objects") == 14
    assert account.left_out["objects", "a line"].examples == ["shape 0", "shape 1", "shape 2"]
    assert account.lines() == [
        "8 of 14 objects left out: a line (first: shape 0)",
        "4 of 6 objects: a circle (first: shape 0)",
    ]
