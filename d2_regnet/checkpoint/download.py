"""Downloads over HTTP that resume, that end in bounded time, and that are whole or not there."""

import hashlib
import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

logger = logging.getLogger(__name__)

CHUNK = 1 << 20


class _Interrupted(ConnectionError):
    """The transfer broke off where another attempt may go on."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the SHA-256 that the Hugging Face hub sends along when it redirects to a file."""

    sha256 = ""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        published = headers.get("X-Linked-ETag", "").strip('"')
        if re.fullmatch("[0-9a-f]{64}", published):
            self.sha256 = published
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def verify(path: str, sha256: str = "") -> str:
    """The SHA-256 of a file, in hex.

    Raises:
        ValueError: it does not begin with `sha256`, the digits that were published.
    """
    with open(path, "rb") as f:
        got = hashlib.file_digest(f, "sha256").hexdigest()
    if not got.startswith(sha256):
        raise ValueError(
            f"{path} is not the published file: its SHA-256 should begin with {sha256}, "
            f"but is {got[: max(len(sha256), 8)]}"
        )
    return got


def download(
    url: str,
    dst: str,
    *,
    sha256: str = "",
    timeout: float = 30.0,
    attempts: int = 4,
    pause: float = 1.0,
) -> None:
    """Downloads `url` to the file `dst`, which appears only when it is whole and checked.

    What has arrived is kept in `dst + ".part"`, and a later attempt or call continues there
    where the server allows it. The caller keeps other processes away (`iopath.file_lock`).
    A progress bar is drawn on a terminal, and nowhere else.

    Args:
        url: of http or https.
        dst: a file in an existing folder.
        sha256: the leading hex digits of the file's SHA-256, where they are published.
        timeout: seconds without an answer before an attempt is given up.
        attempts: how often to try while the connection breaks or the server is busy; an address
            that cannot be reached at all is tried once.
        pause: seconds before the second attempt, doubled before each further one.

    Raises:
        FileNotFoundError: the server does not have the file (HTTP 404, 410).
        ConnectionError: no connection, any other refusal, or a transfer that stayed incomplete.
        ValueError: the file is not the published one; what was downloaded is removed.
    """
    part = Path(f"{dst}.part")
    logger.info(f"Downloading {url} to {dst}")
    for attempt in range(1, attempts + 1):
        try:
            linked = _fetch(url, part, timeout)
            break
        except _Interrupted as err:
            if attempt == attempts:
                raise ConnectionError(f"{err} ({attempts} attempts)") from err
            logger.warning(f"{err}; trying again")
            time.sleep(pause * 2 ** (attempt - 1))
    try:
        verify(str(part), sha256 or linked)
    except ValueError as err:
        _discard(part)
        raise ValueError(f"{url}: {err}; the download was removed") from err
    os.replace(part, dst)
    _discard(part)


def _fetch(url: str, part: Path, timeout: float) -> str:
    """One attempt to complete the file `part`. Returns a SHA-256 that came along, or ""."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "d2_regnet"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if _etag(part).exists():  # the rest of a file that was replaced meanwhile is of no use
            request.add_header("If-Range", _etag(part).read_text())
    redirects = _Redirects()
    try:
        response = urllib.request.build_opener(redirects).open(request, timeout=timeout)
    except urllib.error.HTTPError as err:
        _refused(url, part, have, err)
        return redirects.sha256
    except urllib.error.URLError as err:
        raise ConnectionError(f"cannot reach {url}: {err.reason}") from err
    except (OSError, http.client.HTTPException) as err:
        raise _Interrupted(f"{url}: {err or type(err).__name__}") from err

    with response:
        if response.headers.get_content_type() == "text/html":
            raise ConnectionError(f"{url} answered with a web page, not with a file")
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        if response.status == 206:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                _discard(part)
                raise _Interrupted(f"{url} answered with another part than was asked for")
            total = total and total + have
        else:  # a fresh start, asked for or not
            have = 0
            _discard(part)
            etag = response.headers.get("ETag", "")
            if etag.startswith('"'):  # weak ones cannot identify bytes (RFC 9110, 13.1.5)
                _etag(part).write_text(etag)
        size, name = have, os.path.basename(url)
        bar = tqdm(desc=name, total=total, initial=have, unit="B", unit_scale=True, disable=None)
        with open(part, "ab") as f, bar:
            while chunk := _read(response, url):
                size += f.write(chunk)
                bar.update(len(chunk))
    if not size or (total is not None and size != total):
        raise _Interrupted(f"{url}: the transfer ended after {size} of {total or '?'} bytes")
    return redirects.sha256


def _refused(url: str, part: Path, have: int, err: urllib.error.HTTPError) -> None:
    """Raises what an HTTP error means; returns where it means that the file is already whole."""
    with err:
        reason = f"{url}: HTTP {err.code} {err.reason}"
        if err.code in (404, 410):
            raise FileNotFoundError(reason) from err
        if err.code == 416:
            if err.headers.get("Content-Range") == f"bytes */{have}":
                return
            _discard(part)
        if err.code in (408, 416, 429) or err.code >= 500:
            raise _Interrupted(reason) from err
        raise ConnectionError(reason) from err


def _read(response, url: str) -> bytes:
    """The next bytes, told apart from errors of the disk they go to."""
    try:
        return response.read1(CHUNK)  # what is there, so that a broken connection loses nothing
    except (OSError, http.client.HTTPException) as err:
        raise _Interrupted(f"{url}: {err or type(err).__name__}") from err


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _etag(part).unlink(missing_ok=True)


def _etag(part: Path) -> Path:
    """Where the ETag of a download that has begun is kept."""
    return part.with_name(f"{part.name}.etag")
