"""The data set checker's command line: what it prints, writes, refuses and returns."""

import json
import re

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode
from PIL import Image


@pytest.fixture
def dataset(tmp_path):
    """A COCO file and its images: (path, folder, content); one box is empty."""
    box = dict(image_id=1, category_id=1, iscrowd=0, area=25.0)
    content = dict(
        images=[dict(id=i, file_name=f"{i}.png", width=20, height=20) for i in (1, 2)],
        categories=[dict(id=1, name="cat")],
        annotations=[
            box | dict(id=1, bbox=[1, 1, 5, 5]),
            box | dict(id=2, bbox=[1, 1, 0, 5]),
        ],
    )
    folder = tmp_path / "images"
    folder.mkdir()
    for i in (1, 2):
        Image.fromarray(np.full((20, 20, 3), i, np.uint8)).save(folder / f"{i}.png")
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    return path, folder, content


@pytest.fixture
def registered(dataset):
    name = "checked_by_test"
    register_coco_instances(name, {}, str(dataset[0]), str(dataset[1]))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_prints_what_is_found(tool, dataset, capsys):
    path, folder, _ = dataset
    (folder / "2.png").unlink()
    assert tool.main(["--json", str(path), "--images", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "2 images, 2 annotations: 1 error(s), 1 warning(s), 1 note(s)" in out
    assert "missing image" in out and "there is no" in out and "2.png" in out
    assert "empty box" in out and "annotation 2 of image 1: bbox [1, 1, 0, 5]" in out
    assert "image without annotations" in out


def test_writes_a_cleaned_file(tool, dataset, capsys):
    path, folder, content = dataset
    before = path.read_bytes()
    new = path.with_name("new.json")
    assert tool.main(["--json", str(path), "--images", str(folder), "--fix-to", str(new)]) == 1
    assert json.loads(new.read_text()) == content | {"annotations": content["annotations"][:1]}
    assert path.read_bytes() == before
    assert new.stat().st_mode & 0o777 == 0o644
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "annotations.json",
        "images",
        "new.json",
        "new.json.changes.txt",
    ]
    assert tool.main(["--json", str(new), "--images", str(folder)]) == 0
    assert "0 error(s), 0 warning(s), 1 note(s)" in capsys.readouterr().out


def test_limits_the_examples(tool, dataset, capsys):
    path, folder, content = dataset
    empty = content["annotations"][1]
    content["annotations"] += [empty | {"id": i} for i in range(3, 50)]
    path.write_text(json.dumps(content))
    tool.main(["--json", str(path), "--images", str(folder), "--examples", "2"])
    out = capsys.readouterr().out
    assert out.count("bbox [1, 1, 0, 5]") == 2 and " 48 " in out


def test_decodes(tool, dataset, capsys):
    path, folder, _ = dataset
    picture = folder / "1.png"
    Image.effect_noise(Image.open(picture).size, 50).convert("RGB").save(picture)
    sound = picture.read_bytes()
    picture.write_bytes(sound[:200] + sound[-12:])  # a hole: the end is there
    arguments = ["--json", str(path), "--images", str(folder)]
    tool.main(arguments)
    assert "unreadable" not in capsys.readouterr().out
    tool.main([*arguments, "--decode"])
    assert "unreadable image" in capsys.readouterr().out


def test_registered_data_sets(tool, registered, capsys):
    assert tool.main(["--dataset", registered]) == 1
    assert f"{registered}: 2 images" in capsys.readouterr().out


def test_a_data_set_that_is_no_coco_file(tool, dataset, capsys, refused):
    _, folder, _ = dataset
    good = dict(bbox=[1, 1, 6, 6], bbox_mode=BoxMode.XYXY_ABS, category_id=0)
    record = dict(file_name=str(folder / "1.png"), width=20, height=20, image_id="one")
    bad = good | {"bbox": [30, 30, 40, 40]}
    DatasetCatalog.register("dicts", lambda: [record | {"annotations": [good, bad]}])
    MetadataCatalog.get("dicts").thing_classes = ["cat"]
    try:
        assert tool.main(["--dataset", "dicts"]) == 1
        assert "box outside" in capsys.readouterr().out
        said = refused(tool.main, "--dataset", "dicts", "--fix-to", folder / "new.json")
        assert "not in a COCO file" in said
    finally:
        DatasetCatalog.remove("dicts")
        MetadataCatalog.remove("dicts")


def test_configs(tool, registered, tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text(
        "dataloader = dict(train=dict(dataset=dict(names='shapes_val')),"
        f"test=dict(dataset=dict(names=['{registered}'])))\n"
    )
    assert tool.main(["--config-file", str(config), "dataloader.train.dataset.names=[]"]) == 1
    assert capsys.readouterr().out.startswith(f"{registered}: 2 images")


def test_yaml_configs(tool, registered, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"MODEL: {{WEIGHTS: ''}}\nDATASETS: {{TRAIN: [shapes_val], TEST: [{registered}]}}\n"
    )
    assert tool.main(["--config-file", str(config), "DATASETS.TRAIN", "()"]) == 1
    assert capsys.readouterr().out.startswith(f"{registered}: 2 images")
    row = "mask_rcnn_regnetx_400mf_fpn_3x.yaml"
    overrides = ["DATASETS.TRAIN", "()", "DATASETS.TEST", f"('{registered}',)"]
    assert tool.main(["--config-file", row, *overrides]) == 1
    assert capsys.readouterr().out.startswith(f"{registered}: 2 images")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "mask_rcnn_regnetx_400mf_fpn_3x.yaml", "DATASETS.NONE", "1"], "NONE"),
        (["--config-file", "mask_rcnn_x.yaml"], "mask_rcnn_x"),
        (["--json", "{json}"], "--images"),
        (["--json", "{json}", "--images", "nowhere"], "no folder nowhere"),
        (["--json", "nowhere.json", "--images", "{images}"], "nowhere.json"),
        (["--json", "{images}/1.png", "--images", "{images}"], "of no known format"),
        (["--json", "{images}/1.png", "--images", "{images}", "--format", "coco"], "is not JSON"),
        (["--dataset", "shapes_trian"], "shapes_train"),
        (["--dataset", "keypoints_coco_2014_minival"], "DETECTRON2_DATASETS"),
        (["--config-file", "nowhere.py"], "nowhere.py"),
        (["--json", "{json}", "--images", "{images}", "--fix-to", "{json}"], "--overwrite"),
        (
            ["--json", "{json}", "--images", "{images}", "--fix-to", "{json}", "--overwrite"],
            "never changed",
        ),
        (["--json", "{json}", "--images", "{images}", "--fix-to", "no/new.json"], "no folder no"),
        (["--json", "{json}", "--images", "{images}", "--threads", "0"], "--threads"),
        (["--json", "{json}", "--images", "{images}", "a=b"], "--config-file"),
    ],
)
def test_refuses_bad_input(tool, dataset, refused, arguments, message):
    path, folder, _ = dataset
    before = path.read_bytes()
    assert message in refused(tool.main, *(a.format(json=path, images=folder) for a in arguments))
    assert path.read_bytes() == before


def test_one_file_of_several_data_sets(tool, tmp_path, refused):
    config = tmp_path / "config.py"
    config.write_text(
        "dataloader = dict(train=dict(dataset=dict(names='shapes_train')),"
        "test=dict(dataset=dict(names='shapes_val')))\n"
    )
    said = refused(tool.main, "--config-file", config, "--fix-to", tmp_path / "new.json")
    assert "choose one --dataset of shapes_train, shapes_val" in said


def test_dry_run_says_what_it_would_write(tool, dataset, capsys):
    path, folder, _ = dataset
    new = path.with_name("new.json")
    arguments = ["--json", str(path), "--images", str(folder), "--fix-to", str(new), "--dry-run"]
    assert tool.main(arguments) == 1
    assert f"Would write {new}: 2 images, 1 annotations" in capsys.readouterr().out
    assert not new.exists()


@pytest.fixture
def yolo(tmp_path):
    """Two images with a box each, as YOLO's folders; one label is in pixels, not fractions."""
    for name in ("a", "b"):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), "white").save(tmp_path / "images" / f"{name}.png")
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "classes.txt").write_text("cap\n")
    return tmp_path


def test_other_formats_are_checked_and_drawn(tool, yolo, capsys):
    argv = ["--json", str(yolo / "labels"), "--images", str(yolo / "images")]
    target = yolo / "drawn"
    assert tool.main([*argv, "--draw", str(target)]) == 0
    assert "2 images, 2 annotations" in capsys.readouterr().out
    page = " ".join(re.sub("<[^>]*>", " ", (target / "index.html").read_text()).split())
    assert "cap 2" in page and "small, under 32 x 32 2" in page and "about square 2" in page
    assert {path.name for path in target.iterdir()} == {"index.html", "01.jpg", "02.jpg"}


def test_nothing_sound_is_removed_and_changes_are_listed(tool, yolo, capsys):
    coco = {
        "images": [dict(id=1, file_name="a.png", width=64, height=48)],
        "categories": [dict(id=1, name="cap")],
        "annotations": [
            dict(id=i, image_id=1, category_id=1, iscrowd=0, area=64, bbox=[8, 8, 8, 8])
            | dict(segmentation=mask)
            for i, mask in enumerate([[[]], [[8, 8, 16, 16]], [[8, 8, 16, 8, 16, 16]]], 1)
        ],
    }
    coco["annotations"].append(coco["annotations"][0] | {"id": 9, "bbox": [8, 8, 0, 8]})
    source, fixed = yolo / "a.json", yolo / "fixed.json"
    source.write_text(json.dumps(coco), encoding="utf-8-sig")
    argv = ["--json", str(source), "--images", str(yolo / "images"), "--fix-to", str(fixed)]
    assert tool.main(argv) == 1
    left = json.loads(fixed.read_text())["annotations"]
    assert [each["id"] for each in left] == [1, 2, 3]
    assert [each.get("segmentation") for each in left] == [None, None, [[8, 8, 16, 8, 16, 16]]]
    lines = (yolo / "fixed.json.changes.txt").read_text().splitlines()
    assert len(lines) == 3 and any("removed: empty box: annotation 9" in line for line in lines)

    for each in coco["annotations"]:
        each["bbox"], each["segmentation"] = [8 / 64, 8 / 48, 8 / 64, 8 / 48], []
    source.write_text(json.dumps(coco))
    with pytest.raises(SystemExit) as stop:
        tool.main([*argv, "--overwrite"])
    assert stop.value.code == 2
    assert "as fractions of the image, which they probably are" in capsys.readouterr().err
