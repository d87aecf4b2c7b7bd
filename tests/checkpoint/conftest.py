"""A real HTTP server on loopback that can also misbehave."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.log.append((self.path, asked))
        if server.held is not None:
            server.held.wait(60)
        if server.statuses:
            return self.send_error(server.statuses.pop(0))
        if self.path in server.redirects:
            location, headers = server.redirects[self.path]
            return self.answer(302, b"", {"Location": location, **headers})
        if self.path not in server.files:
            return self.send_error(404)
        body = server.files[self.path]
        etag = f'"{hash(body)}"'
        headers = {"ETag": etag, "Content-Type": server.content_type}
        start = 0
        if asked and server.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(body):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            first = start + server.misplaced
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        self.answer(206 if start else 200, body[start:], headers)

    def answer(self, status, body, headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])
        self.close_connection = True


class Server(ThreadingHTTPServer):
    """Serves `files` ({path: bytes}) and logs (path, Range header) of every request.

    Its faults: `cut` ends every body after that many bytes, `statuses` are the errors that the
    next requests get, `ranges=False` ignores Range, `misplaced` shifts the part that it claims
    to send, `held` is an event that every request waits for.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files, self.redirects, self.log, self.statuses = {}, {}, [], []
        self.cut, self.ranges, self.misplaced, self.held = None, True, 0, None
        self.content_type = "application/octet-stream"


@pytest.fixture
def server(monkeypatch):
    """A running `Server`, reached without any proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    if server.held is not None:
        server.held.set()
    server.shutdown()
    server.server_close()
    thread.join()
