"""Images of every kind, against OpenCV's decoding and against numbers known beforehand."""

import contextlib

import cv2
import numpy as np
import pytest
from detectron2.data.detection_utils import read_image as detectron2_read
from PIL import Image

from d2_regnet.data import images as module
from d2_regnet.data.images import (
    Header,
    image_suffixes,
    orientation,
    read_header,
    read_image,
    to_array,
)

SAVED = {s for s, kind in Image.registered_extensions().items() if kind in Image.SAVE}
SAVED -= {".blp", ".im"}


@pytest.fixture
def image():
    """uint8 (24, 40, 3): smooth, so that JPEG keeps it, and different in every corner."""
    y, x = np.mgrid[:24, :40]
    return np.stack([x * 6, y * 10, 255 - x * 3 - y * 5], -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        *[("png", mode) for mode in ("RGB", "L", "P", "RGBA", "LA", "1")],
        *[("jpg", mode) for mode in ("RGB", "L", "CMYK", "YCbCr")],
        *[("tif", mode) for mode in ("CMYK", "RGBA", "1")],
        *[("gif", mode) for mode in ("P", "L")],
    ],
)
def test_modes_agree_with_opencv(tmp_path, image, suffix, mode):
    path = str(tmp_path / f"image.{suffix}")
    Image.fromarray(image).convert(mode).save(path)
    ours = read_image(path, "BGR")
    assert ours.shape == (24, 40, 3) and ours.dtype == np.uint8
    theirs = cv2.imread(path, cv2.IMREAD_COLOR)
    # Both are meant to be the image; decoders of JPEG and converters of CMYK round differently.
    assert np.abs(ours.astype(int) - theirs).max() <= (8 if mode in ("CMYK", "YCbCr") else 4)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled(tmp_path, suffix):
    path = str(tmp_path / f"deep.{suffix}")
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(path)
    read = read_image(path, "BGR")
    expected = np.rint(values.astype(float) * 255 / 65535).astype(np.uint8)
    assert np.array_equal(read, np.repeat(expected[..., None], 3, -1))
    assert np.array_equal(read_image(path, "L"), expected[..., None])


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bits_in_colour(tmp_path, channels):
    path = str(tmp_path / "deep.png")
    values = np.random.RandomState(0).randint(65536, size=(8, 8, channels)).astype(np.uint16)
    cv2.imwrite(path, values)
    read = read_image(path, "BGR")
    assert np.abs(read.astype(float) - values[..., :3] / 257).max() <= 1


@pytest.mark.parametrize("mode", ["F", "I"])
def test_values_without_a_meaning_in_8_bits(tmp_path, mode):
    path = str(tmp_path / "floats.tif")
    Image.new(mode, (4, 4), 70000).save(path)
    with pytest.raises(ValueError, match="beyond 16 bits"):
        read_image(path, "BGR")


def turned(image, path, tag):
    """Saves the pixels of an upright image so that a viewer has to turn them by `tag`."""
    undo = {
        **{1: image, 2: image[:, ::-1], 3: image[::-1, ::-1], 4: image[::-1]},
        5: image.transpose(1, 0, 2),
        6: np.rot90(image, 1),
        7: np.rot90(image, 2).transpose(1, 0, 2),
        8: np.rot90(image, -1),
    }
    exif = Image.Exif()
    exif[274] = tag
    Image.fromarray(np.ascontiguousarray(undo[tag])).save(path, exif=exif)
    return undo[tag]


@pytest.mark.parametrize("tag", range(1, 9))
def test_orientation(tmp_path, image, tag):
    path = str(tmp_path / "turned.png")
    stored = turned(image, path, tag)
    assert np.array_equal(read_image(path, "RGB"), image)
    assert np.array_equal(read_image(path, "RGB", size=(40, 24)), image)
    swapped = tag >= 5
    as_annotated = read_image(path, "RGB", size=(24, 40))
    assert np.array_equal(as_annotated, stored if swapped else image)
    with Image.open(path) as opened:
        assert orientation(opened) == tag


def test_orientation_of_16_bits(tmp_path):
    values = (np.arange(6, dtype=np.uint16) * 257).reshape(2, 3)
    exif = Image.Exif()
    exif[274] = 6
    path = str(tmp_path / "deep.png")
    Image.fromarray(values).save(path, exif=exif)
    assert read_image(path, "L")[..., 0].tolist() == [[3, 0], [4, 1], [5, 2]]


def test_broken_exif_is_none(tmp_path, image):
    path = str(tmp_path / "exif.jpg")
    Image.fromarray(image).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")
    assert read_image(path, "RGB").shape == image.shape


@pytest.mark.parametrize("size", [(1, 1), (20000, 10), (10, 20000)])
def test_odd_sizes(tmp_path, size):
    path = str(tmp_path / "odd.png")
    Image.new("RGB", size, (1, 2, 3)).save(path)
    read = read_image(path, "BGR")
    assert read.shape == (*size[::-1], 3) and (read == (3, 2, 1)).all()


@pytest.mark.parametrize("format", ["RGB", "BGR"])
def test_jpegs_are_bitwise_detectron2s(shared, format):
    files = sorted((shared / "data" / "coco" / "val2017").glob("*.jpg"))[:20]
    for file in files:
        assert np.array_equal(read_image(str(file), format), detectron2_read(str(file), format))


def test_damaged_jpegs_are_read_as_detectron2_reads_them(shared, tmp_path):
    """Pillow repairs some damage and refuses the rest."""
    whole = next((shared / "data" / "coco" / "val2017").glob("*.jpg")).read_bytes()
    rng = np.random.RandomState(0)
    path = tmp_path / "damaged.jpg"
    refused = 0
    for number in range(12):
        start = rng.randint(1000, len(whole) - 500)
        path.write_bytes(whole[:start] + (whole[start + 300 :] if number % 2 else b""))
        try:
            expected = detectron2_read(str(path), "BGR")
        except OSError:
            refused += 1
            with pytest.raises(OSError):
                read_image(str(path), "BGR")
        else:
            assert np.array_equal(read_image(str(path), "BGR"), expected)
    assert 6 <= refused < 12


def test_damage_is_an_error(tmp_path, image):
    path = tmp_path / "cut.jpg"
    Image.fromarray(image).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(OSError, match="(?i)truncated"):
        read_image(str(path), "BGR")
    path.write_bytes(b"")
    with pytest.raises(OSError, match="cannot identify"):
        read_image(str(path), "BGR")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_image(str(path), "BGR")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_headers_say_both_sizes(tmp_path, image, suffix, tag):
    path = str(tmp_path / f"turned.{suffix}")
    stored = turned(image, path, tag)
    header = read_header(path)
    assert header.stored == stored.shape[1::-1] and header.displayed == (40, 24)
    assert header.turned == (tag != 1)
    as_stored, upright = (read_image(path, "RGB", size) for size in (header.stored, (40, 24)))
    assert upright.shape == image.shape
    assert as_stored.shape == (stored.shape if tag >= 5 else image.shape)
    assert np.abs(upright.astype(int) - image).mean() < 4
    assert np.abs(as_stored.astype(int) - (stored if tag >= 5 else image)).mean() < 4


def test_exif_after_the_pixels_of_a_png_is_seen(tmp_path, image):
    path = tmp_path / "a.png"
    turned(image, str(path), 6)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    tail = data.index(b"IEND") - 4
    path.write_bytes(data[:start] + data[end:tail] + data[start:end] + data[tail:])
    assert read_header(path).displayed == (40, 24)
    assert np.array_equal(read_image(str(path), "RGB"), image)


def test_a_plain_png_is_not_decoded_for_its_header(tmp_path, image, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    monkeypatch.setattr(Image.Image, "load", None)
    assert read_header(path) == Header((40, 24), (40, 24), False)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16", "I"])
@pytest.mark.parametrize("tag", [1, 6])
def test_pillows_images_are_read_as_their_files(tmp_path, image, mode, tag):
    path = tmp_path / "a.tif"
    saved = Image.fromarray(image)
    if mode.startswith("I"):
        saved = Image.fromarray(image[..., 0].astype(np.uint16) * 257)
        saved = saved if mode == "I;16" else saved.convert("I")
    elif mode == "P":
        path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[274] = tag
    saved = saved if mode.startswith("I") else saved.convert(mode)
    saved.save(path, exif=exif, **({"tiffinfo": exif} if path.suffix == ".tif" else {}))
    expected = read_image(str(path), "RGB")
    assert expected.shape == ((24, 40, 3) if tag == 1 else (40, 24, 3))
    with Image.open(path) as opened:
        assert np.array_equal(to_array(opened, "RGB"), expected)
    with open(path, "rb") as file, Image.open(file) as opened:
        opened.load()  # which turns a TIFF; of a path, Pillow 13 would mix up its sides
        assert np.array_equal(to_array(opened, "RGB"), expected)


@pytest.mark.parametrize("suffix", sorted(image_suffixes() & set(SAVED)))
def test_every_suffix_that_pillow_writes_is_read(tmp_path, image, suffix):
    path = tmp_path / f"a{suffix}"
    saved = Image.fromarray(image)
    for mode in ("RGB", "L", "P", "1"):
        with contextlib.suppress(OSError, KeyError):
            saved.convert(mode).save(path)
            break
    assert read_image(str(path), "BGR").shape[2] == 3


def test_heic(tmp_path, image, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "a.heic"
    heif.from_pillow(Image.fromarray(image)).save(path, quality=95)
    assert np.abs(read_image(str(path), "RGB").astype(int) - image).mean() < 6
    assert read_header(path).stored == (40, 24)
    monkeypatch.setattr(module, "_have_heif", lambda: False)
    monkeypatch.setitem(Image.OPEN, "HEIF", (None, lambda prefix: False))
    with pytest.raises(OSError, match=r"a\.heic .*pip install 'd2_regnet\[heic\]'"):
        read_image(str(path), "RGB")


def test_large_images_are_read():
    """A sound one of 400 megapixels: Pillow's own limit refuses it."""
    assert Image.MAX_IMAGE_PIXELS >= 400_000_000
