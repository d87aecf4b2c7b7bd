"""Which files are inputs, and where each is drawn."""

import base64
import contextlib
import http.server
import io
import os
import threading

import cv2
import numpy as np
import pytest
from PIL import Image

from d2_regnet.data.formats.account import Account
from d2_regnet.inference import addresses
from d2_regnet.inference import inputs as inputs_module
from d2_regnet.inference.inputs import Camera, File, Stream, Url, Video, find_sources


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


def test_an_image_is_read_upright_and_as_rgb(tmp_path):
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
    with pytest.raises(OSError, match="not a video"):
        next(Video(os.devnull, folder).frames())


SUFFIXES = "jpg jfif jpe png bmp webp tif gif ppm pnm pgm avif mpo jp2 j2k tga qoi heic hif".split()
VIDEOS = "mp4 avi mov mkv webm wmv mpg ts mts m2ts flv 3gp ogv vob mxf mjpeg".split()


@pytest.mark.parametrize("suffix", SUFFIXES + VIDEOS + ["JPG", "Ts"])
def test_suffixes(folder, suffix):
    (folder / "x").mkdir()
    (folder / "x" / f"a.{suffix}").write_bytes(b"G")
    [source] = find_sources(["x"], "out")
    assert isinstance(source, Video) == (suffix.lower() in VIDEOS)


def test_what_is_not_taken_is_counted(folder):
    for name in ("a/.DS_Store", "a/raw.dng", "a/app.ts", "a/deep/.b.jpg", "a/out/1.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("export const a = 1")
    account = Account()
    assert len(find_sources(["a"], "a/out", account)) == 2
    assert {reason: tally.count for (_, reason), tally in account.left_out.items()} == {
        "hidden": 2,
        ".dng, which is not an image's or video's": 1,
        ".ts, which is not an image's or video's": 1,  # TypeScript
        "in the output folder": 1,
    }
    assert "1 of 7 files left out: .dng, which is not an image's or video's (first: a/raw.dng)" in (
        account.lines()
    )
    account = Account()
    assert [s.name for s in find_sources(["a/*"], "elsewhere", account)] == ["a/1.jpg", "a/2.PNG"]
    assert any("a folder: name it, or match with **" in line for line in account.lines())


def test_hidden_folders_that_are_named_are_read(folder, monkeypatch):
    hidden = folder / ".data" / "photos"
    hidden.mkdir(parents=True)
    (hidden / "1.jpg").touch()
    assert (
        list(found([str(hidden)])) == list(found([".data/photos/*.jpg"])) == [".data/photos/1.jpg"]
    )
    monkeypatch.setenv("HOME", str(folder))
    assert list(found(["~/.data/photos"])) == [".data/photos/1.jpg"]
    with pytest.raises(ValueError, match=r"no images or videos; 1 of 1 files left out: hidden"):
        (hidden / "1.jpg").rename(hidden / ".1.jpg")
        find_sources([str(hidden)], "out")


PIXELS = np.full((4, 6, 3), (200, 0, 0), np.uint8)


class Handler(http.server.BaseHTTPRequestHandler):
    """Images, pages, streams and misbehaviour."""

    def do_GET(self):
        kind, body = "image/png", png()
        if self.path == "/login.png":
            login = base64.b64encode(b"me:pass word").decode()
            if self.headers.get("Authorization") != f"Basic {login}":
                return self.send_error(401)
        elif self.path == "/gone.png":
            return self.send_error(404)
        elif self.path == "/page":
            kind, body = "text/html; charset=utf-8", b"<html>"
        elif self.path == "/cut.png":
            body = body[: len(body) // 2]
        elif self.path == "/slow.png":
            self.server.released.wait(20)
        elif self.path in ("/clip.avi", "/clip"):
            kind, body = "video/x-msvideo", self.server.video
        elif self.path == "/mjpeg":
            kind, body = "multipart/x-mixed-replace; boundary=x", b""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if self.path != "/mjpeg":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # of who does not wait
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def png():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(PIXELS).save(file, "PNG", exif=exif)
    return file.getvalue()


@pytest.fixture
def server(folder):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.released, server.video = threading.Event(), (folder / "clip.avi").read_bytes()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.released.set()
        server.shutdown()
        thread.join()


def frames(address):
    [source] = find_sources([address], "out")
    return list(source.frames())


@pytest.mark.parametrize("path", ["a/b.png", "a/b", "b.png?token=1"])
def test_images_of_addresses(server, path):
    [frame] = frames(f"http://{server}/{path}")
    assert frame.image.shape == (6, 4, 3) and frame.image[0, 0].tolist() == [200, 0, 0]
    assert frame.source.name == f"http://{server}/{path}" and isinstance(frame.source, Url)


def test_a_password_is_sent_and_not_shown(server):
    [frame] = frames(f"http://me:pass%20word@{server}/login.png")
    assert frame.source.name == f"http://{server}/login.png"
    [stream] = find_sources([f"rtsp://me:secret@{server}/live"], "out")
    assert stream.name == f"rtsp://{server}/live" and "secret" in stream.address


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gone.png", "404"),
        ("login.png", "401"),
        ("page", r"is a page \(text/html\), and no image"),
        ("cut.png", "(?i)truncated|broken"),
    ],
)
def test_addresses_without_an_image(server, path, said):
    with pytest.raises(OSError, match=said):
        frames(f"http://{server}/{path}")


def test_limits_of_addresses(server, monkeypatch):
    monkeypatch.setattr(addresses, "PATIENCE", 0.2)
    with pytest.raises(OSError, match=r"slow\.png: .*timed out"):
        frames(f"http://{server}/slow.png")
    monkeypatch.setattr(addresses, "_MOST_BYTES", 10)
    with pytest.raises(OSError, match=r"a\.png: over 0 MiB, which is too much"):
        frames(f"http://{server}/a.png")
    monkeypatch.setattr(addresses, "_MOST_BYTES", 1 << 20)
    monkeypatch.setattr(inputs_module, "_MOST_PIXELS", 10)
    with pytest.raises(OSError, match="6 x 4 pixels, which is too much"):
        frames(f"http://{server}/a.png")
    with pytest.raises(OSError, match="127.0.0.1:1/a.png: .*refused"):
        frames("http://127.0.0.1:1/a.png")


@pytest.mark.parametrize("path", ["clip.avi", "clip"])
def test_videos_of_addresses(server, path):
    [source] = find_sources([f"http://{server}/{path}"], "out")
    first, *others = source.frames()
    assert isinstance(source, Stream) and source.fps == 12.5
    assert source.target.name == f"{path}.mp4"
    assert [frame.index for frame in (first, *others)] == [0, 1, 2, 3, 4]


def test_what_is_a_stream(server):
    streams = [
        f"http://{server}/mjpeg",
        "rtsp://cam/1",
        "https://x.org/live/index.m3u8",
        "rtmp://x/y",
    ]
    assert all(isinstance(source, Stream) for source in find_sources(streams, "out"))
    with pytest.raises(OSError, match="127.0.0.1:1/live does not answer, or with no video"):
        Stream("rtsp://127.0.0.1:1/live", "out").open()
    with pytest.raises(ValueError, match="s3://x/a.jpg: addresses are of http, https, rtsp"):
        find_sources(["s3://x/a.jpg"], "out")


def test_targets_of_addresses():
    one = find_sources(["https://x.org/p/../../../etc/a.jpg"], "out")
    assert [str(each.target) for each in one] == ["out/a.jpg"]
    names = ["https://x.org/a.jpg", "https://y.org/a.jpg", "https://y.org/b.webp"]
    assert [str(each.target) for each in find_sources(names, "out")] == [
        "out/x.org/a.jpg",
        "out/y.org/a.jpg",
        "out/y.org/b.webp.png",
    ]
