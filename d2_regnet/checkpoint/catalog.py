"""Published weights by name: ``regnet://`` wherever Detectron2 takes a path.

    regnet://pycls/RegNetX-3.2GF                        ImageNet backbone, the paper's own
    regnet://torchvision/regnet_x_3_2gf                 ... torchvision's default weights
    regnet://torchvision/regnet_x_3_2gf.IMAGENET1K_V1   ... or others, by their name
    regnet://timm/regnetx_032.pycls_in1k                ... timm's, with or without the tag
    regnet://mmdet/regnetx_3.2gf                        ... MMDetection's (open-mmlab://)
    regnet://mmdet/mask_rcnn_regnetx_3.2gf_fpn_1x       a trained detector, by the config's name
    regnet://detectron2/mask_rcnn_regnetx_4.0gf_fpn_lsj_400ep   Detectron2's own, as it is

A name stands for a local file: downloaded once, checked, converted once by
`d2_regnet.checkpoint.convert`, and kept under ``$FVCORE_CACHE`` as iopath keeps its downloads.

``D2_REGNET_MIRROR`` names a place to take the originals from instead: a folder, in which they are
looked for before the network is asked, or an http(s) address that stands in for all their hosts.
Either holds a file by its base name, by the path in its address, or by host and path.
"""

import functools
import glob
import hashlib
import json
import os
import re
from importlib import resources
from typing import IO, NamedTuple
from urllib.parse import urlsplit

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, file_lock, get_cache_dir

import d2_regnet
from d2_regnet.archs import arch_name, suggest

from .download import download, verify

PREFIX = "regnet://"
MIRROR = "D2_REGNET_MIRROR"


class Published(NamedTuple):
    """One published checkpoint."""

    source: str
    name: str
    url: str

    @property
    def filename(self) -> str:
        """What a mirror calls it: the last part of its address, if that tells files apart."""
        path = urlsplit(self.url).path.split("/")
        return f"{path[2]}.safetensors" if path[-1] == "model.safetensors" else path[-1]

    @property
    def sha256(self) -> str:
        """The leading digits of its SHA-256 that the file's name publishes, or ""."""
        match = re.search(r"-([0-9a-f]{8})\.pth$", self.url)
        return match[1] if match else ""

    def __str__(self) -> str:
        return f"{PREFIX}{self.source}/{self.name}"


def list_checkpoints(source: str | None = None) -> list[str]:
    """The full names of all published weights, or of one source's.

    timm's are among them where timm is installed.

    Raises:
        ValueError: an unknown source.
        ImportError: `source` is "timm", which is not installed.
    """
    names = []
    for each in _SOURCES if source is None else [source]:
        try:
            names += [str(published) for published in _published(each).values()]
        except ImportError:
            if source is not None:
                raise
    return names


def address(name: str) -> str:
    """The public address of ``regnet://source/name``; no network is asked.

    Raises:
        ValueError: an unknown name; the message lists the nearest.
        ImportError: a name of timm's, and timm is not installed.
    """
    return _find(name).url


def get_local_path(name: str, *, force: bool = False) -> str:
    """The local, converted file of ``regnet://source/name``. Safe to ask from several processes.

    Args:
        name: see the top of this file. Case, hyphens and a RegNet's spelling are free.
        force: download and convert again, whatever is cached.

    Raises:
        ValueError: an unknown name, a file other than the published one, or one that `convert`
            refuses.
        FileNotFoundError, ConnectionError: the file is neither at hand nor to be had; the message
            names its address, the mirror variable and the file to put there.
        OSError: the cache cannot be written.
    """
    published = _find(name)
    original = _at_hand(published, force)
    if published.source == "detectron2":  # in Detectron2's own format
        from .reading import read

        path = original or _download(published, force)
        read(path)  # Detectron2 would run what code there is in it
        return path
    from .conversion import convert  # not before: Detectron2 loads its models later than its paths

    folder = os.path.join(get_cache_dir(), "d2_regnet", published.source)
    stem = os.path.join(folder, os.path.splitext(published.filename)[0])
    if original is None and not force:
        kept = glob.glob(f"{glob.escape(stem)}-{'?' * 16}-{_converter()}.pth")
        if kept:  # the original went away, its conversion did not
            return max(kept, key=os.path.getmtime)
    original = original or _download(published, force)
    try:
        digest = verify(original, published.sha256)
        # A changed original and a changed converter both ask for a file of another name.
        converted = f"{stem}-{digest[:16]}-{_converter()}.pth"
        if force or not os.path.isfile(converted):
            _make_writable(folder)
            with file_lock(converted):
                if force or not os.path.isfile(converted):  # or another process was faster
                    source, arch = _expected(published)
                    convert(original, converted, source=source, arch=arch, overwrite=True)
    except ValueError as err:
        raise ValueError(f"{published}: {err}; replace or remove {original}") from err
    return converted


def _expected(published: Published) -> tuple[str, str | None]:
    """The source and arch that `convert` must find in a file of this name, or refuse it."""
    if published.source == "pycls":  # which publishes no hash
        return "pycls", published.name
    # MMDetection took the names of its ResNets from torchvision's.
    return "mmdet" if published.name.startswith("resnet") else published.source, None


def _at_hand(published: Published, force: bool) -> str | None:
    """The original in the mirror folder or, unless forced, among the downloads."""
    mirror = os.path.expanduser(os.environ.get(MIRROR, ""))
    places = [] if force else [_download_path(published)]
    if mirror and not _is_http(mirror):
        places = [os.path.join(mirror, path) for path in _mirrored(published)] + places
    return next(filter(os.path.isfile, places), None)


def _download(published: Published, force: bool) -> str:
    """Downloads the original, unless another process just did, and returns the file."""
    mirror = os.environ.get(MIRROR, "")
    urls = [published.url]
    if _is_http(mirror):
        urls = [f"{mirror.rstrip('/')}/{path}" for path in _mirrored(published)]
    elif mirror and not os.path.isdir(os.path.expanduser(mirror)):
        raise FileNotFoundError(f"{MIRROR}={mirror} is not a folder")
    path = _download_path(published)
    _make_writable(os.path.dirname(path))
    with file_lock(path):
        if force or not os.path.isfile(path):
            try:
                _download_first(urls, path, published.sha256)
            except (FileNotFoundError, ConnectionError) as err:
                raise type(err)(
                    f"{published}: {err}; where {published.url} is out of reach, put "
                    f"{published.filename} into the folder that {MIRROR} names "
                    f"(now: {mirror or 'not set'})"
                ) from err
            except ValueError as err:
                raise ValueError(f"{published}: {err}") from err
    return path


def _download_first(urls: list[str], dst: str, sha256: str) -> None:
    """Downloads the first of several addresses that there is."""
    for url in urls:
        try:
            return download(url, dst, sha256=sha256)
        except FileNotFoundError:
            if url == urls[-1]:
                raise


def _is_http(mirror: str) -> bool:
    return mirror.startswith(("http://", "https://"))


def _mirrored(published: Published) -> list[str]:
    """Where a mirror may hold a file: what people, `cp --parents` and `wget -x` make of it."""
    parts = urlsplit(published.url)
    return [published.filename, parts.path.lstrip("/"), parts.netloc + parts.path]


def _download_path(published: Published) -> str:
    """Where iopath's own handler keeps a download from this address, so that both share it."""
    return os.path.join(get_cache_dir(), urlsplit(published.url).path.lstrip("/"))


def _make_writable(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"no permission to write in {folder}")
    except OSError as err:
        raise OSError(
            f"the cache cannot be used: {err}; set FVCORE_CACHE to a folder that you may write in"
        ) from err


@functools.cache
def _converter() -> str:
    """The version of the converter: a digest of its code, which nobody can forget to raise."""
    digest = hashlib.sha256(d2_regnet.__version__.encode())
    files = resources.files("d2_regnet.checkpoint").iterdir()
    for file in sorted(files, key=lambda file: file.name):
        if file.name.endswith((".py", ".json")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


# The sources, each a function from nothing to {name: address}, asked when first needed.


def _addresses(source: str) -> dict[str, str]:
    """Of the backbones of `addresses.json`, and the detectors of the model zoo."""
    package = resources.files("d2_regnet")
    known = json.loads((package / "checkpoint" / "addresses.json").read_text())
    zoo = json.loads((package / "model_zoo" / "zoo.json").read_text()).items()
    trained = {name: row["url"] for name, row in zoo if row["source"] == source and row["url"]}
    return known.get(source, {}) | trained


def _torchvision() -> dict[str, str]:
    from torchvision.models import get_model_weights, list_models

    urls = {}
    for model in list_models(include=["regnet_*", "resnet50", "resnet101"]):  # and the baselines'
        weights = get_model_weights(model)
        urls[model] = weights["DEFAULT"].url
        urls |= {f"{model}.{each.name}": each.url for each in weights}
    return urls


def _timm() -> dict[str, str]:
    try:
        import timm
    except ImportError as err:
        raise ImportError(
            f"{PREFIX}timm/... needs timm, which knows the addresses: pip install timm ({err})"
        ) from err

    urls = {}
    for name in timm.list_models("regnet[xy]_*", pretrained=True):
        model = name.partition(".")[0]
        for each in (name, model):  # without a tag, timm gives its default
            repo = timm.get_pretrained_cfg_value(each, "hf_hub_id")
            urls[each] = f"https://huggingface.co/{repo}/resolve/main/model.safetensors"
    return urls


_SOURCES = {
    "pycls": lambda: _addresses("pycls"),
    "mmdet": lambda: _addresses("mmdet"),
    "torchvision": _torchvision,
    "timm": _timm,
    "detectron2": lambda: _addresses("detectron2"),
}


@functools.cache
def _published(source: str) -> dict[str, Published]:
    """{key: what it names} for one source."""
    if source not in _SOURCES:
        raise ValueError(f"unknown source of weights {source!r}: {suggest(source, _SOURCES)}")
    urls = _SOURCES[source]()
    return {_key(name): Published(source, name, url) for name, url in urls.items()}


def _key(name: str) -> str:
    """One spelling for all spellings of a name."""

    def spell(match: re.Match) -> str:
        try:
            return arch_name(match[0]).lower()
        except ValueError:  # a RegNet outside the paper, such as torchvision's regnet_y_128gf
            return match[0]

    name = re.sub(r"regnet[-_ ]?[xy][-_ ]?\d+(?:[._]\d+)?[-_ ]?[mg]f", spell, name.lower())
    return name.replace("-", "_")


def _find(name: str) -> Published:
    source, slash, rest = name.removeprefix(PREFIX).partition("/")
    if not slash:
        raise ValueError(f"{name!r} is not of the form {PREFIX}source/name")
    published = _published(source.lower())
    try:
        return published[_key(rest)]
    except KeyError:
        known = [each.name for each in published.values()]
        raise ValueError(f"unknown weights {name!r}: {suggest(rest, known)}") from None


class RegNetHandler(PathHandler):
    """Resolves ``regnet://source/name`` to a local file, which can only be read."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        self._check_kwargs(kwargs)
        return get_local_path(path, force=force)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs) -> IO:
        if mode not in ("r", "rb"):
            raise ValueError(f"{path} can only be read, not opened in mode {mode!r}")
        return open(self._get_local_path(path, **kwargs), mode, buffering)

    def _exists(self, path: str, **kwargs) -> bool:
        self._check_kwargs(kwargs)
        try:
            return bool(address(path))
        except ValueError:
            return False

    def _isfile(self, path: str, **kwargs) -> bool:
        return self._exists(path, **kwargs)

    def _isdir(self, path: str, **kwargs) -> bool:
        self._check_kwargs(kwargs)
        return False


PathManager.register_handler(RegNetHandler(), allow_override=True)
