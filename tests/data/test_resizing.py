"""Resizing with torch, against Pillow, which Detectron2 resizes with."""

import detectron2.data.transforms as T
import numpy as np
import pytest
from PIL import Image

from d2_regnet.data.resizing import FastInput, FastPadTransform, FastResizeTransform


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(61, 80), (200, 31), (7, 9), (50, 60), (1, 1)])
def test_as_pillow(size, channels):
    rng = np.random.RandomState(0)
    image = rng.randint(256, size=(50, 60, channels)).astype(np.uint8)
    before = image.copy()
    ours = FastResizeTransform(50, 60, *size).apply_image(image)
    theirs = T.ResizeTransform(50, 60, *size).apply_image(image)
    assert ours.shape == theirs.shape == (*size, channels) and ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert np.array_equal(image, before)


@pytest.mark.parametrize("layout", [lambda x: x[:, ::-1], lambda x: x[2:, 3:], np.asfortranarray])
def test_any_layout(layout):
    image = layout(np.random.RandomState(0).randint(256, size=(40, 50, 3)).astype(np.uint8))
    image.flags.writeable = False
    size = image.shape[:2]
    ours = FastResizeTransform(*size, 64, 72).apply_image(image)
    theirs = T.ResizeTransform(*size, 64, 72).apply_image(np.ascontiguousarray(image))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize(
    ("image", "interp"),
    [
        (np.random.RandomState(0).rand(20, 30, 3).astype(np.float32), None),
        (np.arange(600, dtype=np.uint8).reshape(20, 30), Image.NEAREST),
        (np.arange(600, dtype=np.uint8).reshape(20, 30, 1), Image.BICUBIC),
    ],
)
def test_all_else_is_detectron2s(image, interp):
    ours = FastResizeTransform(20, 30, 33, 44).apply_image(image, interp)
    assert np.array_equal(ours, T.ResizeTransform(20, 30, 33, 44).apply_image(image, interp))


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7, 1), (5, 7)])
@pytest.mark.parametrize("sides", [(0, 0, 0, 0), (1, 2, 3, 4)])
def test_padding(shape, sides):
    image = np.random.RandomState(0).randint(256, size=shape).astype(np.uint8)
    given = (*sides, 7, 5, 128.0, 255)
    ours = FastPadTransform(*given).apply_image(image)
    assert np.array_equal(ours, T.PadTransform(*given).apply_image(image))
    assert ours.dtype == np.uint8


def test_crop_and_padding_in_a_list(seed):
    image = np.random.RandomState(0).randint(256, size=(30, 80, 3)).astype(np.uint8)
    labels = image[..., 0].copy()
    found = []
    for kind in (FastInput, T.AugInput):
        seed(0)
        given = kind(image, sem_seg=labels)
        done = given.apply_augmentations([T.FixedSizeCrop((50, 60))])
        assert isinstance(done, T.TransformList)
        found.append(given)
    ours, theirs = found
    assert np.array_equal(ours.image, theirs.image) and ours.image.shape == (50, 60, 3)
    assert np.array_equal(ours.sem_seg, theirs.sem_seg)


def test_transforms_stay_detectron2s(seed):
    image = np.random.RandomState(0).randint(256, size=(30, 40, 3)).astype(np.uint8)
    labels = np.arange(1200, dtype=np.uint8).reshape(30, 40)
    boxes = np.array([[1.0, 2.0, 30.0, 20.0]])
    found = []
    for kind in (FastInput, T.AugInput):
        seed(0)
        given = kind(image.copy(), boxes=boxes.copy(), sem_seg=labels.copy())
        done = given.apply_augmentations([T.ResizeShortestEdge(60), T.RandomFlip(prob=1.0)])
        assert [type(each) for each in done.transforms] == [T.ResizeTransform, T.HFlipTransform]
        found.append(given)
    ours, theirs = found
    assert np.abs(ours.image.astype(int) - theirs.image).max() <= 1
    assert np.array_equal(ours.sem_seg, theirs.sem_seg)
    assert np.array_equal(ours.boxes, theirs.boxes)
