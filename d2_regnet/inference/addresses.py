"""Addresses of images, videos and streams: told apart, and asked within limits."""

import base64
import http.client
import re
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from d2_regnet.data.images import image_suffixes

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        "mp4 avi mov qt mkv webm m4v mpg mpeg mpe m2v m1v wmv asf flv f4v 3gp 3g2 ogv ts mts m2ts "
        "vob mxf divx dv mjpg mjpeg h264 264 hevc 265 y4m rm rmvb"
    ).split()
)
PATIENCE = 30  # seconds without an answer
_MOST_BYTES = 1 << 28
_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt", "mms")
_PLAYLISTS = (".m3u8", ".mpd")
_STREAM_TYPES = ("video/", "multipart/", "application/vnd.apple.mpegurl", "application/x-mpegurl")


def is_address(text: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def path_of(address: str) -> Path:
    """An address as a path without `..`, to write to."""
    parts = urlsplit(address)
    names = [each for each in parts.path.split("/") if each not in ("", ".", "..")]
    return Path(re.sub(r"[^\w.-]", "_", parts.hostname or "host"), *(names or ["index"]))


def is_stream(address: str) -> bool:
    """Whether it is a video's or a stream's; an http address of which the suffix does not tell is
    asked, and taken for an image's if there is no answer.

    Raises:
        ValueError: neither http nor a scheme of streams.
    """
    scheme, suffix = urlsplit(address).scheme.lower(), path_of(address).suffix.lower()
    if scheme not in ("http", "https", *_SCHEMES):
        raise ValueError(
            f"{without_password(address)}: addresses are of http, https, {', '.join(_SCHEMES)}"
        )
    if scheme in _SCHEMES or suffix in VIDEO_SUFFIXES or suffix in _PLAYLISTS:
        return True
    if suffix in image_suffixes():
        return False
    try:
        with urlopen(_request(address), timeout=PATIENCE) as response:
            return response.headers.get("Content-Type", "").lower().startswith(_STREAM_TYPES)
    except (OSError, ValueError, http.client.HTTPException):  # said when it is read
        return False


def without_password(address: str) -> str:
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _request(address: str) -> Request:
    parts, headers = urlsplit(address), {"User-Agent": "d2_regnet"}
    if parts.username:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    return Request(without_password(address), headers=headers)


def download(address: str) -> bytes:
    """What is there; OSError if it does not come whole, in time and within the size."""
    name, data, end = without_password(address), bytearray(), time.monotonic() + 10 * PATIENCE
    try:
        with urlopen(_request(address), timeout=PATIENCE) as response:
            while chunk := response.read(1 << 16):
                data += chunk
                if len(data) > _MOST_BYTES:
                    raise OSError(f"over {_MOST_BYTES >> 20} MiB, which is too much for an image")
                if time.monotonic() > end:
                    raise OSError(f"not whole after {10 * PATIENCE} seconds")
            kind = response.headers.get_content_type()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise OSError(f"{name}: {error or type(error).__name__}") from error
    if kind.startswith("text/"):
        raise OSError(f"{name} is a page ({kind}), and no image")
    return bytes(data)
