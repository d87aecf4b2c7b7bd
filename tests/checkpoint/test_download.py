"""Downloads from a real server on loopback, whole and broken in every way."""

import hashlib
import io
import os
import random
import resource
import sys
import threading

import pytest

from d2_regnet.checkpoint.download import download, verify

BODY = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def dst(tmp_path):
    return tmp_path / "weights.pth"


@pytest.fixture
def fetch(server, dst):
    """Downloads /weights.pth, which the server has, without waiting between attempts."""
    server.files["/weights.pth"] = BODY

    def fetch(**kwargs):
        download(f"{server.url}/weights.pth", str(dst), **{"pause": 0, **kwargs})

    return fetch


def leftovers(dst):
    return sorted(path.name for path in dst.parent.iterdir())


def test_whole(server, fetch, dst):
    fetch(sha256=SHA256[:8])
    assert dst.read_bytes() == BODY
    assert leftovers(dst) == ["weights.pth"]
    assert server.log == [("/weights.pth", None)]


def test_a_broken_transfer_goes_on_where_it_stopped(server, fetch, dst):
    server.cut = 120_000
    fetch(sha256=SHA256)
    assert dst.read_bytes() == BODY
    assert leftovers(dst) == ["weights.pth"]
    assert [asked for _, asked in server.log] == [None, "bytes=120000-", "bytes=240000-"]


def test_a_later_call_goes_on_where_an_earlier_one_stopped(server, fetch, dst):
    server.cut = 120_000
    with pytest.raises(ConnectionError, match="120000 of 300000 bytes"):
        fetch(attempts=1)
    assert not dst.exists()
    assert dst.with_name("weights.pth.part").read_bytes() == BODY[:120_000]
    server.cut = None
    fetch()
    assert dst.read_bytes() == BODY
    assert [asked for _, asked in server.log] == [None, "bytes=120000-"]


def test_a_server_without_ranges_starts_over(server, fetch, dst):
    server.ranges = False
    server.cut = 120_000
    with pytest.raises(ConnectionError):
        fetch(attempts=1)
    server.cut = None
    fetch()
    assert dst.read_bytes() == BODY
    assert [asked for _, asked in server.log] == [None, "bytes=120000-"]


def test_an_always_truncated_file_never_appears(server, fetch, dst):
    server.ranges = False
    server.cut = 120_000
    with pytest.raises(ConnectionError, match=r"120000 of 300000 bytes \(3 attempts\)"):
        fetch(attempts=3)
    assert not dst.exists()
    assert len(server.log) == 3


def test_a_file_replaced_meanwhile_starts_over(server, fetch, dst):
    server.cut = 120_000
    with pytest.raises(ConnectionError):
        fetch(attempts=1)
    server.cut = None
    server.files["/weights.pth"] = BODY[::-1]
    fetch()
    assert dst.read_bytes() == BODY[::-1]


def test_another_part_than_was_asked_for_starts_over(server, fetch, dst):
    server.cut = 120_000
    with pytest.raises(ConnectionError):
        fetch(attempts=1)
    server.cut, server.misplaced = None, 7
    fetch()
    assert dst.read_bytes() == BODY
    assert [asked for _, asked in server.log] == [None, "bytes=120000-", None]


def test_a_partial_file_that_is_already_whole_is_taken(server, fetch, dst):
    dst.with_name("weights.pth.part").write_bytes(BODY)
    fetch(sha256=SHA256)
    assert dst.read_bytes() == BODY
    assert [asked for _, asked in server.log] == ["bytes=300000-"]


def test_a_partial_file_that_is_too_long_starts_over(server, fetch, dst):
    dst.with_name("weights.pth.part").write_bytes(BODY + b"more")
    fetch(sha256=SHA256)
    assert dst.read_bytes() == BODY
    assert [asked for _, asked in server.log] == ["bytes=300004-", None]


def test_an_unknown_file(server, fetch, dst):
    del server.files["/weights.pth"]
    with pytest.raises(FileNotFoundError, match=f"{server.url}/weights.pth: HTTP 404"):
        fetch()
    assert leftovers(dst) == []
    assert len(server.log) == 1


def test_a_refusal_is_final(server, fetch, dst):
    server.statuses = [403]
    with pytest.raises(ConnectionError, match="HTTP 403"):
        fetch()
    assert len(server.log) == 1


def test_a_busy_server_is_asked_again(server, fetch, dst):
    server.statuses = [503, 429]
    fetch()
    assert dst.read_bytes() == BODY
    assert len(server.log) == 3


def test_a_web_page_is_no_file(server, fetch, dst):
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(ConnectionError, match="web page"):
        fetch()
    assert leftovers(dst) == []


def test_an_empty_answer_is_no_file(server, fetch, dst):
    server.files["/weights.pth"] = b""
    with pytest.raises(ConnectionError, match="after 0 of"):
        fetch(attempts=1)
    assert not dst.exists()


def test_wrong_hash(server, fetch, dst):
    with pytest.raises(ValueError) as caught:
        fetch(sha256="01234567")
    message = str(caught.value)
    assert server.url in message
    assert "01234567" in message
    assert SHA256[:8] in message
    assert leftovers(dst) == []


def test_hash_from_the_redirect(server, fetch, dst):
    """The Hugging Face hub sends the hash with the redirect, quoted (X-Linked-ETag)."""
    url = f"{server.url}/resolve"
    server.redirects["/resolve"] = ("/weights.pth", {"X-Linked-ETag": f'"{SHA256}"'})
    download(url, str(dst))
    assert dst.read_bytes() == BODY
    server.redirects["/resolve"] = ("/weights.pth", {"X-Linked-ETag": f'"{"0" * 64}"'})
    with pytest.raises(ValueError, match="0" * 64):
        download(url, str(dst.with_name("other.pth")))
    assert leftovers(dst) == ["weights.pth"]


def test_a_silent_server_is_given_up(server, fetch, dst):
    server.held = threading.Event()
    with pytest.raises(ConnectionError, match=r"timed out \(2 attempts\)"):
        fetch(timeout=0.2, attempts=2)
    assert leftovers(dst) == []


def test_no_server(server, dst):
    server.server_close()
    with pytest.raises(ConnectionError, match=f"cannot reach {server.url}/weights.pth"):
        download(f"{server.url}/weights.pth", str(dst))
    assert leftovers(dst) == []


def test_a_full_disk_is_not_a_broken_connection(server, fetch, dst):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError) as caught:
            fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not isinstance(caught.value, ConnectionError)
    assert not dst.exists()
    assert len(server.log) == 1


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_drawn_on_a_terminal_only(fetch, dst, monkeypatch):
    drawn, logged = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", drawn)
    fetch()
    assert "weights.pth: 100%" in drawn.getvalue()
    monkeypatch.setattr(sys, "stderr", logged)
    os.remove(dst)
    fetch()
    assert logged.getvalue() == ""


def test_verify(dst):
    dst.write_bytes(BODY)
    assert verify(str(dst)) == SHA256
    assert verify(str(dst), SHA256[:8]) == SHA256
    with pytest.raises(ValueError, match=f"begin with 89abcdef, but is {SHA256[:8]}$"):
        verify(str(dst), "89abcdef")
