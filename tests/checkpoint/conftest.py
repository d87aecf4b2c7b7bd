"""A real HTTP server on loopback that can also misbehave; backbones with random weights."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch

from d2_regnet.archs import list_archs
from d2_regnet.checkpoint.conversion import convert, convert_state, with_input_format
from d2_regnet.modeling.backbone.regnet import build_regnet


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

    Its faults: `cut` ends every backbone after that many bytes, `statuses` are the errors that the
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


def randomise(model, seed):
    """Random weights and norm statistics that keep activations in range, block after block."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("running_mean") or name.endswith("bias"):
            tensor.normal_(0, 0.1, generator=generator)
        elif tensor.dim() == 1:
            tensor.uniform_(0.3, 0.7, generator=generator)
        else:
            fan_in = tensor[0].numel()
            tensor.normal_(0, (2 / fan_in) ** 0.5, generator=generator)


def built(build, seed=0):
    """The evaluated model that `build` builds, its slow initialisation replaced by `randomise`."""
    with torch.device("meta"):
        model = build()
    model = model.to_empty(device="cpu").eval()
    randomise(model, seed)
    return model


@torch.no_grad()
def check_features(model, stages, normalise, source, arch):
    """That a model's stages, and the backbone converted from it, answer the same for one image.

    Args:
        stages: the model's stem and its four stages.
        normalise: from the image (H x W x 3 bytes, RGB) to the model's input, by its own rules.
        source, arch: what `convert_state` must recognise, from names and shapes.
    """
    rng = np.random.RandomState(1)
    rgb = (rng.rand(64, 64, 3) * [256, 170, 90]).astype(np.uint8)
    x, expected = normalise(rgb), {}
    for name, stage in zip(("stem", "s1", "s2", "s3", "s4"), stages, strict=True):
        x = expected[name] = stage(x)
    state = model.state_dict()
    found, native = convert_state(state)
    assert (found, native.arch) == (source, arch)
    assert set(native.mapped) | set(native.dropped) == set(state)
    assert not set(native.mapped) & set(native.dropped)
    for input_format in ("BGR", "RGB"):
        mapped = with_input_format(native, input_format)
        assert mapped.input_format == input_format
        with torch.device("meta"):
            body = build_regnet(arch, out_features=list(expected))
        body.load_state_dict(mapped.state, assign=True)
        picture = rgb if input_format == "RGB" else rgb[:, :, ::-1]
        picture = torch.from_numpy(picture.astype(np.float32))
        picture = (picture - torch.tensor(mapped.pixel_mean)) / torch.tensor(mapped.pixel_std)
        got = body.eval()(picture.permute(2, 0, 1)[None])
        for name, want in expected.items():
            assert want.std() > 0.01
            assert (got[name] - want).abs().max() <= 1e-4 * want.abs().max(), (name, input_format)


def check_restored(source, state):
    """That a source's names come back from what its state was mapped to, with the same values."""
    mapped = source.convert(state, {})
    restored = source.restore(mapped.state)
    assert all(torch.equal(restored.pop(n), state[n]) for n in state if n not in mapped.dropped)
    assert not restored


@pytest.fixture(scope="session")
def bodies():
    """The helpers of the tests that compare backbones."""
    return SimpleNamespace(
        built=built,
        check_features=check_features,
        check_restored=check_restored,
        randomise=randomise,
    )


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] * name.endswith(("12GF", "16GF", "32GF")))
        for name in list_archs()
    ]
)
def published_arch(request):
    """The name of each; the largest take seconds, and pycls's tests have them all."""
    return request.param


@pytest.fixture(scope="session")
def timm_file(tmp_path_factory, bodies):
    """A checkpoint of timm's RegNetY-200MF, its state and its folder's path."""
    state = bodies.built(lambda: timm.create_model("regnety_002")).state_dict()
    path = tmp_path_factory.mktemp("source") / "regnety_002.pth"
    torch.save({"state_dict": state, "arch": "regnety_002"}, path)
    return SimpleNamespace(path=path, state=state)


@pytest.fixture(scope="session")
def converted(timm_file, tmp_path_factory):
    """The same conversion in every format."""
    folder = tmp_path_factory.mktemp("converted")
    paths = {suffix: folder / f"regnety_002{suffix}" for suffix in (".pth", ".pkl", ".safetensors")}
    for path in paths.values():
        convert(timm_file.path, path)
    return paths
