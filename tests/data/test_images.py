"""Images of every kind, against OpenCV's decoding and against numbers known beforehand."""

import cv2
import numpy as np
import pytest
from detectron2.data.detection_utils import read_image as detectron2_read
from PIL import Image

from d2_regnet.data.images import orientation, read_image


@pytest.fixture
def picture():
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
def test_modes_agree_with_opencv(tmp_path, picture, suffix, mode):
    path = str(tmp_path / f"image.{suffix}")
    Image.fromarray(picture).convert(mode).save(path)
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


def turned(picture, path, tag):
    """Saves the pixels of an upright image so that a viewer has to turn them by `tag`."""
    undo = {
        **{1: picture, 2: picture[:, ::-1], 3: picture[::-1, ::-1], 4: picture[::-1]},
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, 1),
        7: np.rot90(picture, 2).transpose(1, 0, 2),
        8: np.rot90(picture, -1),
    }
    exif = Image.Exif()
    exif[274] = tag
    Image.fromarray(np.ascontiguousarray(undo[tag])).save(path, exif=exif)
    return undo[tag]


@pytest.mark.parametrize("tag", range(1, 9))
def test_orientation(tmp_path, picture, tag):
    path = str(tmp_path / "turned.png")
    stored = turned(picture, path, tag)
    assert np.array_equal(read_image(path, "RGB"), picture)
    assert np.array_equal(read_image(path, "RGB", size=(40, 24)), picture)
    swapped = tag >= 5
    as_annotated = read_image(path, "RGB", size=(24, 40))
    assert np.array_equal(as_annotated, stored if swapped else picture)
    with Image.open(path) as image:
        assert orientation(image) == tag


def test_orientation_of_16_bits(tmp_path):
    values = (np.arange(6, dtype=np.uint16) * 257).reshape(2, 3)
    exif = Image.Exif()
    exif[274] = 6
    path = str(tmp_path / "deep.png")
    Image.fromarray(values).save(path, exif=exif)
    assert read_image(path, "L")[..., 0].tolist() == [[3, 0], [4, 1], [5, 2]]


def test_broken_exif_is_none(tmp_path, picture):
    path = str(tmp_path / "exif.jpg")
    Image.fromarray(picture).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")
    assert read_image(path, "RGB").shape == picture.shape


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


def test_damage_is_an_error(tmp_path, picture):
    path = tmp_path / "cut.jpg"
    Image.fromarray(picture).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(OSError, match="(?i)truncated"):
        read_image(str(path), "BGR")
    path.write_bytes(b"")
    with pytest.raises(OSError, match="cannot identify"):
        read_image(str(path), "BGR")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_image(str(path), "BGR")
