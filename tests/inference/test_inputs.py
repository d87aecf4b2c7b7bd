"""Which files are inputs, and where each is drawn."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from d2_regnet.inference.inputs import Camera, File, Video, find_sources


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """a/1.jpg, a/2.PNG, b/1.jpg, b/deep/3.bmp, clip.avi and what is no image; entered."""
    for name in ("a/1.jpg", "a/2.PNG", "b/1.jpg", "b/deep/3.bmp", "b/.hidden.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    write_video(tmp_path / "clip.avi")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_video(path, frames=5, fps=12.5, size=(64, 48)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
    for i in range(frames):
        writer.write(np.full((size[1], size[0], 3), (0, 0, 40 * i), np.uint8))  # red in BGR
    writer.release()


def found(inputs, output="out"):
    return {s.name: str(s.target) for s in find_sources(inputs, output)}


def test_a_folder_with_all_below_it(folder):
    assert found(["."]) == {
        "a/1.jpg": "out/a/1.jpg",
        "a/2.PNG": "out/a/2.PNG",
        "b/1.jpg": "out/b/1.jpg",
        "b/deep/3.bmp": "out/b/deep/3.bmp.png",
        "clip.avi": "out/clip.avi.mp4",
    }
    kinds = {type(source) for source in find_sources(["."], "out")}
    assert kinds == {File, Video}


def test_one_folder_is_not_repeated_below_the_output(folder):
    assert found(["a"]) == {"a/1.jpg": "out/1.jpg", "a/2.PNG": "out/2.PNG"}


def test_two_files_of_one_name_do_not_meet(folder):
    assert found(["a/1.jpg", "b/1.jpg"]) == {"a/1.jpg": "out/a/1.jpg", "b/1.jpg": "out/b/1.jpg"}


def test_globs_and_repetitions(folder):
    assert list(found(["*/1.jpg"])) == ["a/1.jpg", "b/1.jpg"]
    assert list(found(["**/*.jpg", "a", str(folder / "a" / "1.jpg")])) == [
        "a/1.jpg",
        "b/1.jpg",
        "a/2.PNG",
    ]


def test_a_file_whose_name_is_a_pattern(folder):
    (folder / "x[1].jpg").touch()
    assert list(found(["x[1].jpg"])) == ["x[1].jpg"]


def test_earlier_results_are_no_input(folder):
    (folder / "a" / "out").mkdir()
    (folder / "a" / "out" / "1.jpg").touch()
    assert list(found(["a"], "a/out")) == ["a/1.jpg", "a/2.PNG"]


def test_a_missing_file_is_left_to_the_reading(folder):
    assert list(found(["a", "gone.jpg"])) == ["a/1.jpg", "a/2.PNG", "gone.jpg"]
    with pytest.raises(OSError):
        next(File("gone.jpg", folder).frames())


def test_cameras(folder):
    assert found(["0"]) == {"camera 0": "out/camera0.mp4"}
    (folder / "0").touch()
    assert found(["0"]) == {"0": "out/0.png"}
    with pytest.raises(OSError, match="there is no camera 97"):
        Camera(97, folder).open()


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "no input"),
        (["empty"], "the folder empty has no images"),
        (["*.jpg"], r"nothing matches \*.jpg"),
        (["a/3", "a/3.png"], "both be drawn to"),
    ],
)
def test_what_is_no_input(folder, inputs, said):
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=said):
        find_sources(inputs, "out")


def test_a_picture_is_read_upright_and_as_rgb(tmp_path):
    image = Image.fromarray(np.full((4, 6, 3), (200, 0, 0), np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "x.png", exif=exif)
    (frame,) = File(str(tmp_path / "x.png"), tmp_path).frames()
    assert frame.image.shape == (6, 4, 3) and frame.image[0, 0].tolist() == [200, 0, 0]
    assert frame.index is None


def test_a_videos_frames(folder):
    video = Video("clip.avi", folder)
    assert (video.count, video.fps) == (5, 12.5)
    frames = list(video.frames())
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    red = [int(frame.image[..., 0].mean()) for frame in frames]
    np.testing.assert_allclose(red, [0, 40, 80, 120, 160], atol=6)
    assert frames[4].image[..., 2].mean() < 10
    with pytest.raises(OSError, match="no video"):
        next(Video(os.devnull, folder).frames())
