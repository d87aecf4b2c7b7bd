"""COCO's files as other tools write them."""

import json

import pytest

from d2_regnet.data.formats import read_dataset


def content(*names, categories=({"id": 1, "name": "cap"},), used=1):
    images = [
        {"id": i, "file_name": name, "width": 160, "height": 120} for i, name in enumerate(names, 1)
    ]
    box = {"bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    annotations = [{"id": i, "image_id": i, "category_id": used} | box for i in (1,)]
    return {"images": images, "categories": list(categories), "annotations": annotations}


def read(maker, coco, encoding="utf-8"):
    file = maker.root / "x.json"
    file.write_text(json.dumps(coco), encoding=encoding)
    return read_dataset(maker.images, file)


def test_a_sound_file_stays_as_it_is(maker):
    maker.image("sub/a.jpg")
    coco, account = read(maker, content("sub/a.jpg"))
    assert coco == content("sub/a.jpg") and not account.rewritten and account.lines() == []
    assert account.used == {"images": 1, "classes": 1, "objects": 1}


@pytest.mark.parametrize(
    "written",
    [
        *("sub\\a.jpg", "C:\\data\\sub\\a.jpg", "/data/upload/1/a.jpg", "../x/a.jpg", "a.jpg"),
        *("sub/A.JPG", "a", "https://host/upload/%61.jpg?x", "a.png"),
    ],
)
def test_names_of_other_machines(maker, written):
    maker.image("sub/a.jpg")
    coco, account = read(maker, content(written))
    assert coco["images"][0]["file_name"] == "sub/a.jpg" and account.rewritten
    text = "found by another name than the file has (first: "
    assert f"{text}{written}, which is sub/a.jpg)" in account.lines()[0]


def test_names_that_lead_to_the_folder_in_another_way_are_no_others(maker):
    path = maker.image("sub/a.jpg")
    for written in ("./sub/a.jpg", "sub/../sub/a.jpg", str(path)):
        coco, account = read(maker, content(written))
        assert coco == content(written) and account.lines() == []


def test_an_image_without_a_size_has_that_of_its_file(maker):
    maker.image(turn=6)
    without = content("a.jpg")
    del without["images"][0]["width"]
    coco, account = read(maker, without)
    assert (coco["images"][0]["width"], coco["images"][0]["height"]) == (120, 160)
    assert account.rewritten and "without a size" in account.lines()[0]


def test_a_name_at_two_places_is_not_guessed(maker):
    maker.image("x/a.jpg")
    maker.image("y/a.jpg")
    coco, account = read(maker, content("a.jpg"))
    assert coco["images"][0]["file_name"] == "a.jpg" and not account.rewritten
    assert "2 of 3 images left out: of the folder, not in the file" in account.lines()[0]


def test_roboflows_category_above_the_others(maker):
    maker.image()
    root = {"id": 0, "name": "animals", "supercategory": "none"}
    below = [{"id": i, "name": n, "supercategory": "animals"} for i, n in ((1, "cat"), (2, "dog"))]
    coco, account = read(maker, content("a.jpg", categories=[root, *below]))
    assert coco["categories"] == below and account.rewritten
    assert "category above the others, without objects (first: animals)" in account.lines()[0]
    coco, _ = read(maker, content("a.jpg", categories=[root, *below], used=0))
    assert len(coco["categories"]) == 3  # it has an object


def test_a_class_named_as_its_own_supercategory_stays(maker):
    maker.image()
    person = {"id": 1, "name": "person", "supercategory": "person"}
    bear = {"id": 2, "name": "teddy", "supercategory": "person"}
    coco, _ = read(maker, content("a.jpg", categories=[person, bear], used=2))
    assert coco["categories"] == [person, bear]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings(maker, encoding):
    maker.image()
    coco, _ = read(maker, content("a.jpg"), encoding)
    assert coco == content("a.jpg")


def test_half_turns_and_squares_are_said(maker):
    maker.image("a.jpg", turn=3)
    maker.image("b.jpg", turn=6)
    _, account = read(maker, content("a.jpg", "b.jpg"))
    assert "1 of 2 images: turned or mirrored by EXIF" in account.lines()[0]
    assert "(2 were looked at) (first: a.jpg)" in account.lines()[0]
