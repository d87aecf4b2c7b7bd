"""Data sets for fine-tuning: split, of the same classes, and refused where odd."""

import json
from pathlib import Path

import pytest
from PIL import Image

from d2_regnet.finetune.datasets import boxes_only, read_datasets

BOX = {"bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
MASK = {"segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]]}


@pytest.fixture
def make(tmp_path):
    """make("a", pictures=4, names={1: "cat"}, masks=True) -> (images, annotations)."""

    def dataset(name, pictures=4, names=None, masks=True, change=lambda coco: coco):
        names = names or {1: "cat"}
        folder = tmp_path / name
        folder.mkdir()
        for i in range(pictures):
            Image.new("RGB", (20, 10)).save(folder / f"{i}.png")
        mask = MASK if masks else {}
        coco = {
            "images": [
                {"id": i, "file_name": f"{i}.png", "width": 20, "height": 10}
                for i in range(1, pictures)
            ]
            + [{"id": 100, "file_name": "0.png", "width": 20, "height": 10}],
            "categories": [{"id": k, "name": v} for k, v in names.items()],
            "annotations": [
                {"id": i, "image_id": i, "category_id": list(names)[i % len(names)]} | BOX | mask
                for i in range(1, pictures)
            ],
        }
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(change(coco)))
        return str(folder), str(file)

    return dataset


def test_files_in_order_are_taken_as_they_are(make):
    names = {7: "dog", 3: "cat"}
    train, val, notes = read_datasets(make("a", names=names), make("b", names=names))
    assert train.classes == ["cat", "dog"]  # as Detectron2 orders them
    assert train.file.endswith("a.json") and val.file.endswith("b.json")
    assert (train.pictures, len(train.by_image), train.objects, notes) == (4, 3, 3, [])
    assert (train.short_edge, train.aspect) == (10, 2)


def test_a_share_is_set_apart(make):
    found = make("a", pictures=20)
    train, val, notes = read_datasets(found, None, share=0.25, seed=3)
    assert (train.pictures, val.pictures) == (15, 5)
    assert (train.file, val.file) == (None, None)
    names = [{image["file_name"] for image in each.coco["images"]} for each in (train, val)]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 20
    assert train.objects + val.objects == 19
    assert "seed 3" in notes[0]
    again = read_datasets(found, None, share=0.25, seed=3)[1]
    assert again.coco == val.coco
    assert read_datasets(found, None, share=0.25, seed=4)[1].coco != val.coco


def test_the_same_classes_under_other_ids(make):
    train = make("a", names={1: "cat", 2: "dog"})
    _, val, _ = read_datasets(train, make("b", names={5: "dog", 8: "cat"}))
    assert val.classes == ["cat", "dog"] and val.file is None
    assert [a["category_id"] for a in val.coco["annotations"]] == [1, 2, 1]
    _, val, _ = read_datasets(train, make("c", names={5: "dog"}))
    assert val.classes == ["cat", "dog"]
    assert {a["category_id"] for a in val.coco["annotations"]} == {2}


def test_some_objects_without_masks_keep_their_boxes_and_others_their_masks(make):
    def one_without(coco):
        del coco["annotations"][0]["segmentation"]
        return coco

    train, _, notes = read_datasets(make("a", change=one_without), make("b"))
    assert [bool(each) for each in train.masks] == [False, True, True] and train.objects == 3
    assert notes == [] and not any(boxes_only(train).masks)


def test_masks_that_cannot_be_used_cost_no_box(make):
    def thin(coco):
        coco["annotations"][0]["segmentation"] = [[]]
        coco["annotations"][1]["segmentation"] = [[1, 1, 5, 5]]
        return coco

    train, _, notes = read_datasets(make("a", change=thin), make("b"))
    assert [bool(each) for each in train.masks] == [False, False, True] and train.objects == 3
    assert train.file is None and "2 of: polygon of under three points" in notes[0]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_annotations_in_another_encoding_are_written_anew(make, encoding):
    images, annotations = make("a")
    text = Path(annotations).read_text()
    Path(annotations).write_text(text, encoding=encoding)
    train, _, _ = read_datasets((images, annotations), make("b"))
    assert train.file is None and train.objects == 3


def test_crowds(make):
    def crowds(count):
        def change(coco):
            for each in coco["annotations"][:count]:
                each["iscrowd"] = 1
            return coco

        return change

    train, _, _ = read_datasets(make("a", change=crowds(1)), make("b"))
    assert (train.objects, train.crowds) == (2, 1)
    every = make("c", change=crowds(3))
    with pytest.raises(
        ValueError, match="--train: .*c.json: all 3 annotations are crowd regions.*--crowd-as-obj"
    ):
        read_datasets(every, make("d"))
    train, _, _ = read_datasets(every, make("e"), crowds=True)
    assert (train.objects, train.crowds) == (3, 0)
    with pytest.raises(ValueError, match="--val: .*c.json: all 3 annotations are crowd regions"):
        read_datasets(make("f"), every)


def test_a_picture_in_both_is_said(make):
    found = make("a")
    assert "4 images of --val are in --train" in read_datasets(found, found)[2][0]


def empty(coco):
    return coco | {"annotations": []}


def broken(coco):
    coco["annotations"][0]["category_id"] = 99
    return coco


def gone(coco):
    for image in coco["images"]:
        image["file_name"] += ".jpg"
    return coco


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (empty, "--train: .*a.json has no annotations"),
        (broken, r"--train: .*1 error\(s\), .*unknown category id.*check-dataset --json"),
        (gone, "--train: of 4 images looked at, none can be used; .*missing image"),
    ],
)
def test_odd_data_are_refused(make, change, said):
    with pytest.raises(ValueError, match=said):
        read_datasets(make("a", change=change), make("b"))


def test_other_refusals(make):
    train = make("a")
    with pytest.raises(
        ValueError, match="--val: .* has the class 'cow', which --train does not have"
    ):
        read_datasets(train, make("b", names={1: "cow"}))
    with pytest.raises(ValueError, match="two classes of the name 'cat'"):
        read_datasets(make("c", names={1: "cat", 2: "cat"}), None)
    with pytest.raises(ValueError, match="--val-share"):
        read_datasets(train, None, share=1.5)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_datasets(("nowhere", train[1]), None)


def test_the_readers_account_is_told_once(tmp_path):
    shapes = [
        {"label": "cap", "points": [[1, 1], [9, 1], [9, 9]]},
        {"label": "cap", "points": [[1, 1], [9, 9]], "shape_type": "line"},
    ]
    for name in ("a", "b", "c"):
        Image.new("RGB", (20, 10)).save(tmp_path / f"{name}.png")
    for name in ("a", "b"):
        text = json.dumps({"shapes": shapes, "imageWidth": 20, "imageHeight": 10})
        (tmp_path / f"{name}.json").write_text(text)
    folders = str(tmp_path), str(tmp_path)
    train, val, notes = read_datasets(folders, None)
    assert train.file is None and (len(train.coco["images"]), len(val.coco["images"])) == (1, 1)
    assert [note.split(" (")[0] for note in notes[:2]] == [
        "--train: 2 of 4 objects left out: a line, which has no area",
        "--train: 1 of 3 images left out: no .json file, so nobody has labelled them",
    ]
    train, val, _ = read_datasets(folders, None, unlabelled="empty")
    assert len(train.coco["images"]) + len(val.coco["images"]) == 3
