"""RobustMapper: Detectron2's mapper for ordinary images, and a clear end for the others."""

import copy

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_utils

from d2_regnet.data.loader import outlasting_signals
from d2_regnet.data.mapper import RobustMapper, UnusablePicture

POLYGON = [[5, 5, 25, 5, 25, 15, 5, 15]]


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "picture.png"
    rng = np.random.RandomState(0)
    Image.fromarray(rng.randint(256, size=(30, 40, 3)).astype(np.uint8)).save(path)
    box = dict(bbox=[5, 5, 20, 10], bbox_mode=BoxMode.XYWH_ABS, category_id=1)
    boxes = [box | dict(segmentation=POLYGON), box | dict(segmentation=POLYGON, iscrowd=1)]
    return dict(file_name=str(path), width=40, height=30, image_id=7, annotations=boxes)


@pytest.mark.parametrize("size", [(10, 20000), (20000, 10), (1, 1)])
@pytest.mark.parametrize("form", ["polygon", "bitmask"])
def test_a_column_or_a_row_is_flipped(tmp_path, size, form):
    width, height = size
    pixels = np.random.RandomState(0).randint(256, size=(height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "long.png")
    box = dict(bbox=[0, 0, width, height], bbox_mode=BoxMode.XYXY_ABS, category_id=1)
    box["segmentation"] = [[0, 0, width, 0, width, height, 0, height]]
    record = dict(file_name=str(tmp_path / "long.png"), width=width, height=height)
    flips = [T.RandomFlip(1.0), T.RandomFlip(1.0, horizontal=False, vertical=True)]
    mapper = RobustMapper(
        **arguments(
            augmentations=[T.ResizeShortestEdge(800, 1333), *flips], instance_mask_format=form
        )
    )
    mapped = mapper(record | dict(annotations=[box]))
    assert mapped["image"].shape[1:] == {10: (1333, 1), 20000: (1, 1333), 1: (800, 800)}[width]
    assert len(mapped["instances"]) == 1
    upright = RobustMapper(**arguments(augmentations=[T.ResizeShortestEdge(800, 1333)]))
    expected = upright(record | dict(annotations=[box]))["image"].flip(1, 2)
    assert torch.equal(mapped["image"], expected)


def arguments(**kwargs):
    defaults = dict(
        is_train=True,
        augmentations=[T.ResizeShortestEdge((20, 60), sample_style="range"), T.RandomFlip()],
        image_format="BGR",
        use_instance_mask=True,
    )
    return defaults | kwargs


@pytest.mark.parametrize(
    "change",
    [
        dict(),
        dict(instance_mask_format="bitmask", recompute_boxes=True),
        dict(use_instance_mask=False, image_format="RGB"),
        dict(is_train=False),
        dict(precomputed_proposal_topk=2),
        dict(image_format="L"),
    ],
)
def test_as_detectron2(record, seed, tmp_path, change):
    path = tmp_path / "labels.png"
    Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(30, 40) % 5).save(path)
    record["sem_seg_file_name"] = str(path)
    record["proposal_boxes"] = np.array([[0, 0, 9, 9], [5, 5, 30, 20], [1, 2, 3, 4]], float)
    record["proposal_bbox_mode"] = BoxMode.XYXY_ABS
    record["proposal_objectness_logits"] = np.array([3.0, 2.0, 1.0])
    before = copy.deepcopy(record)
    for number in range(4):
        seed(number)
        ours = RobustMapper(**arguments(**change))(record)
        seed(number)
        theirs = DatasetMapper(**arguments(**change))(record)
        assert ours.keys() == theirs.keys()
        # The pixels are noise; torch and Pillow round the weights of a resize differently.
        assert (ours["image"].int() - theirs["image"]).abs().max() <= 1
        assert torch.equal(ours["sem_seg"], theirs["sem_seg"])
        for key in ("instances", "proposals"):
            if key in theirs:
                assert str(ours[key]) == str(theirs[key])
        if "instances" in theirs and theirs["instances"].has("gt_masks"):
            ours, theirs = ours["instances"].gt_masks, theirs["instances"].gt_masks
            if change.get("instance_mask_format") == "bitmask":
                assert torch.equal(ours.tensor, theirs.tensor)
            else:
                assert np.array_equal(ours.polygons, theirs.polygons)
    assert str(record) == str(before)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize(
    "augmentations",
    [
        [T.ResizeShortestEdge((640, 800), 1333, "range"), T.RandomFlip()],
        [T.ResizeScale(0.1, 2.0, 512, 512), T.FixedSizeCrop((512, 512)), T.RandomFlip()],
        [T.RandomCrop("relative_range", (0.3, 0.3)), T.RandomFlip(horizontal=False, vertical=True)],
    ],
)
def test_as_detectron2_on_coco(shared, seed, augmentations, mask_format):
    folder = shared / "data" / "coco"
    records = load_coco_json(
        str(folder / "annotations" / "instances_val2017.json"), str(folder / "val2017")
    )
    change = dict(
        augmentations=augmentations, instance_mask_format=mask_format, recompute_boxes=True
    )
    kept = dropped = 0
    for number, record in enumerate(records[:10]):
        seed(number)
        ours = RobustMapper(**arguments(**change))(record)
        seed(number)
        theirs = DatasetMapper(**arguments(**change))(record)
        difference = (ours["image"].int() - theirs["image"]).abs()
        assert difference.max() <= 2 and (difference > 0).float().mean() < 0.05
        assert ours["image"].is_contiguous()
        ours, theirs = ours["instances"], theirs["instances"]
        assert torch.equal(ours.gt_boxes.tensor, theirs.gt_boxes.tensor)
        assert torch.equal(ours.gt_classes, theirs.gt_classes)
        kept, dropped = kept + len(ours), dropped + len(record["annotations"]) - len(ours)
        if ours.has("gt_masks") and mask_format == "bitmask":
            assert torch.equal(ours.gt_masks.tensor, theirs.gt_masks.tensor)
        elif ours.has("gt_masks"):
            for own, their in zip(ours.gt_masks.polygons, theirs.gt_masks.polygons, strict=True):
                assert all(np.array_equal(a, b) for a, b in zip(own, their, strict=True))
    assert kept > 20 and dropped


def test_masks_of_every_kind(record):
    mask = np.zeros((30, 40), np.uint8, order="F")
    mask[5:15, 5:25] = 1
    mask[8:10, 8:10] = 0
    first, second = record["annotations"]
    del second["iscrowd"]
    first["segmentation"] = mask_utils.encode(mask)
    second["segmentation"] = [np.array(POLYGON[0], float)]
    before = copy.deepcopy(record)
    change = arguments(augmentations=[T.RandomFlip(prob=1.0)], instance_mask_format="bitmask")
    found = RobustMapper(**change)(record)["instances"].gt_masks.tensor
    assert str(record) == str(before)
    assert np.array_equal(found[0], mask[:, ::-1])
    assert found[1].sum() == 200 and found[1, 5:15, 15:35].all()


def cut(path):
    path.write_bytes(path.read_bytes()[:-500])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "FileNotFoundError"),
        (cut, "OSError"),
        (lambda path: path.write_bytes(b"GIF89a"), "UnidentifiedImageError"),
        (lambda path: Image.new("RGB", (20, 15)).save(path), r"SizeMismatchError.*\(20, 15\)"),
    ],
)
@pytest.mark.parametrize("is_train", [True, False])
def test_names_the_unusable_picture(record, tmp_path, damage, message, is_train):
    damage(tmp_path / "picture.png")
    with pytest.raises(UnusablePicture, match=f"picture.png: {message}"):
        RobustMapper(**arguments(is_train=is_train))(record)


def test_names_the_picture_of_broken_annotations(record):
    record["annotations"][0]["segmentation"] = {"size": [30, 41], "counts": b"Y9"}
    with pytest.raises(UnusablePicture, match="picture.png: "):
        RobustMapper(**arguments(instance_mask_format="bitmask"))(record)


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_stops_at_an_unusable_picture(record, workers):
    records = [record, record | {"file_name": "nowhere.png"}]
    loader = build_detection_test_loader(
        records, mapper=RobustMapper(**arguments(is_train=False)), num_workers=workers
    )
    message = "nowhere.png: FileNotFoundError"
    with pytest.raises(UnusablePicture, match=message), outlasting_signals(loader):
        list(loader)


@pytest.mark.parametrize("size", [(1, 1), (20000, 10), (10, 20000)])
@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_odd_sizes(record, size, mask_format):
    Image.new("RGB", size).save(record["file_name"])
    width, height = size
    record.update(width=width, height=height)
    for annotation in record["annotations"]:
        annotation["bbox"] = [0, 0, width, height]
        annotation["segmentation"] = [[0, 0, width, 0, width, height, 0, height]]
    resize = T.ResizeShortestEdge(800, 1333)
    mapped = RobustMapper(**arguments(augmentations=[resize], instance_mask_format=mask_format))(
        record
    )
    _, high, wide = mapped["image"].shape
    assert min(high, wide) >= 1 and max(high, wide) <= 1333
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[0, 0, wide, high]]


def test_16_bits_and_orientation_together(record):
    exif = Image.Exif()
    exif[274] = 8
    values = np.random.RandomState(1).randint(65536, size=(30, 40)).astype(np.uint16)
    Image.fromarray(values).save(record["file_name"], exif=exif)
    image = RobustMapper(**arguments(augmentations=[]))(record)["image"]
    # 40 x 30 is annotated: the boxes are of the stored pixels.
    assert np.array_equal(image, np.repeat(np.rint(values / 257)[None], 3, 0))
    record.update(width=30, height=40)
    image = RobustMapper(**arguments(augmentations=[]))(record)["image"]
    assert np.array_equal(image[0], np.rot90(np.rint(values / 257)))
