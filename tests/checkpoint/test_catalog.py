"""Published weights by name: their addresses, and the way from there into a model.

No test leaves the machine: the network is a real server on loopback (``D2_REGNET_MIRROR``), and
whatever would go elsewhere meets a proxy that refuses at once.
"""

import io
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg, instantiate
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from pycls.models.anynet import AnyNet
from torchvision.models import get_model_weights, list_models, resnet50

from d2_regnet import add_regnet_config, build_regnet, get_arch, model_zoo
from d2_regnet.checkpoint import catalog, mmdet
from d2_regnet.modeling.backbone.resnet import build_resnet

NAME = "regnet://pycls/RegNetX-200MF"
URL = "https://dl.fbaipublicfiles.com/pycls/dds_baselines/160905981/RegNetX-200MF_dds_8gpu.pyth"
FILE = "RegNetX-200MF_dds_8gpu.pyth"
PATH = "pycls/dds_baselines/160905981/RegNetX-200MF_dds_8gpu.pyth"

# The hashes in the names of MMDetection's ImageNet backbones (mmengine's hub/openmmlab.json).
OPEN_MMLAB = {
    "regnetx_400mf": "a5b10d96",
    "regnetx_800mf": "1f4be4c7",
    "regnetx_1.6gf": "5791c176",
    "regnetx_3.2gf": "c2599b0f",
    "regnetx_4.0gf": "a88f671e",
    "regnetx_6.4gf": "006af45d",
    "regnetx_8.0gf": "3c68abe7",
    "regnetx_12gf": "4c2a3350",
    "resnext101_32x4d": "a5af3160",
}


# Addresses


def test_pycls_addresses(fixtures):
    archs = json.loads((fixtures / "regnet_archs.json").read_text())
    assert catalog.list_checkpoints("pycls") == [f"regnet://pycls/{name}" for name in archs]
    for name, arch in archs.items():
        assert catalog.address(f"regnet://pycls/{name}") == arch["weights"]


def test_mmdet_addresses(fixtures, root):
    table = json.loads((fixtures / "table_rows.json").read_text())
    published = {row["mmdet_config"]: row["weights"] for row in table}
    rows = json.loads((root / "d2_regnet" / "model_zoo" / "zoo.json").read_text())
    rows = {name: row["config"] for name, row in rows.items() if row["source"] == "mmdet"}
    assert sorted(rows.values()) == sorted(published)
    for name, config in rows.items():
        assert catalog.address(f"regnet://mmdet/{name}") == published[config]
    for name, digits in OPEN_MMLAB.items():
        assert catalog.address(f"regnet://mmdet/{name}") == (
            f"https://download.openmmlab.com/pretrain/third_party/{name}-{digits}.pth"
        )
    assert len(catalog.list_checkpoints("mmdet")) == len(rows) + len(OPEN_MMLAB) == 40


def test_torchvision_addresses():
    for model in list_models(include=["regnet_*", "resnet50", "resnet101"]):
        weights = get_model_weights(model)
        assert catalog.address(f"regnet://torchvision/{model}") == weights.DEFAULT.url
        for each in weights:
            assert catalog.address(f"regnet://torchvision/{model}.{each.name}") == each.url
    assert catalog.address("regnet://torchvision/regnet_x_3_2gf.IMAGENET1K_V1") == (
        "https://download.pytorch.org/models/regnet_x_3_2gf-f342aeae.pth"
    )
    assert catalog.address("regnet://torchvision/regnet_y_128gf").endswith("_swag-c8ce3e52.pth")


def test_timm_addresses():
    timm = pytest.importorskip("timm")
    for name in timm.list_models("regnet[xy]_*", pretrained=True):
        assert catalog.address(f"regnet://timm/{name}") == (
            f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors"
        )
    default = timm.get_pretrained_cfg("regnety_032").tag
    assert catalog.address("regnet://timm/regnety_032") == (
        f"https://huggingface.co/timm/regnety_032.{default}/resolve/main/model.safetensors"
    )


def test_detectron2_addresses(fixtures):
    rows = json.loads((fixtures / "detectron2_rows.json").read_text())
    addresses = [catalog.address(name) for name in catalog.list_checkpoints("detectron2")]
    assert len(addresses) == len(rows) == 6
    for row, address in zip(rows, addresses):
        assert address.startswith(f"https://dl.fbaipublicfiles.com/detectron2/{row['config']}/")


@pytest.mark.parametrize(
    "spelling, name",
    [
        ("regnet://pycls/regnetx_3.2gf", "regnet://pycls/RegNetX-3.2GF"),
        ("regnet://pycls/regnet_x_3200mf", "regnet://pycls/RegNetX-3.2GF"),
        ("pycls/RegNetX-3.2GF", "regnet://pycls/RegNetX-3.2GF"),
        ("regnet://mmdet/RegNetX-4GF", "regnet://mmdet/regnetx_4.0gf"),
        (
            "regnet://mmdet/Mask-RCNN_regnetx-8GF_fpn_1x",
            "regnet://mmdet/mask_rcnn_regnetx_8.0gf_fpn_1x",
        ),
        (
            "regnet://torchvision/RegNet_X_3_2GF.imagenet1k_v2",
            "regnet://torchvision/regnet_x_3_2gf.IMAGENET1K_V2",
        ),
        ("regnet://torchvision/regnet_x_32gf", "regnet://torchvision/RegNetX-32GF"),
    ],
)
def test_spelling_is_free(spelling, name):
    assert catalog.address(spelling) == catalog.address(name)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("regnet://pycls/RegNetX-3GF", "unknown weights .*RegNetX-3GF.* nearest are .*X-3.2GF"),
        ("regnet://mmdet/mask_rcnn_regnetx_3.2gf_fpn_5x", "nearest are .*regnetx_3.2gf_fpn_[13]x"),
        ("regnet://torchvision/regnet_x_3_2gf.V3", "nearest are .*regnet_x_3_2gf"),
        ("regnet://pyclss/RegNetX-3.2GF", "unknown source of weights 'pyclss': .* pycls"),
        ("regnet://RegNetX-3.2GF", "not of the form regnet://source/name"),
        ("regnet://pycls/../../etc/passwd", "unknown weights"),
    ],
)
def test_unknown_names_list_the_nearest(name, reason):
    with pytest.raises(ValueError, match=reason):
        catalog.address(name)


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(catalog, "_published", catalog._published.__wrapped__)  # asks again
    with pytest.raises(ImportError, match="pip install timm"):
        catalog.address("regnet://timm/regnetx_032")
    with pytest.raises(ImportError, match="pip install timm"):
        catalog.list_checkpoints("timm")
    assert catalog.list_checkpoints() == [
        name
        for source in ("pycls", "mmdet", "torchvision", "detectron2")
        for name in catalog.list_checkpoints(source)
    ]


# From an address to a local file


def pycls_checkpoint(seed):
    """The bytes of a RegNetX-200MF as pycls saves one, from the real package, and its weights."""
    torch.manual_seed(seed)
    arch = get_arch("RegNetX-200MF")
    model = AnyNet(
        stem_type="simple_stem_in",
        stem_w=arch.stem_width,
        block_type="res_bottleneck_block",
        ds=list(arch.stage_depths),
        ws=list(arch.stage_widths),
        ss=[2, 2, 2, 2],
        bms=[1.0] * 4,
        gws=list(arch.stage_group_widths),
        se_r=None,
        nc=1000,
    )
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    file = io.BytesIO()
    torch.save({"epoch": 99, "model_state": model.state_dict(), "cfg": "MODEL: {}"}, file)
    return file.getvalue(), model.state_dict()


@pytest.fixture(scope="module")
def published():
    return pycls_checkpoint(seed=0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, no mirror, and no way to the network."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("FVCORE_CACHE", str(cache))
    monkeypatch.delenv(catalog.MIRROR, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # "discard": nobody listens
    return cache


@pytest.fixture
def online(server, published, monkeypatch):
    """The server as a mirror that has the file by its name."""
    monkeypatch.setenv(catalog.MIRROR, server.url)
    server.files[f"/{FILE}"] = published[0]
    return server


@pytest.fixture
def mirror(tmp_path, published, monkeypatch):
    """A mirror folder that has the file by its name."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / FILE).write_bytes(published[0])
    monkeypatch.setenv(catalog.MIRROR, str(mirror))
    return mirror


def files(folder):
    paths = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if not path.endswith(".lock"))


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def assert_converted(path, published):
    """Bit by bit what was published, as far as Detectron2's backbone has it."""
    converted = weights(path)
    assert set(converted) >= set(build_regnet("RegNetX-200MF").state_dict())
    for name in build_regnet("RegNetX-200MF").state_dict():
        assert torch.equal(converted[name], published[1][name]), name


def test_downloaded_and_converted_once(online, published, cache):
    path = PathManager.get_local_path(NAME)
    assert_converted(path, published)
    assert [asked for asked, _ in online.log] == [f"/{FILE}"]
    assert files(cache) == [os.path.relpath(path, cache), PATH]
    before = os.stat(path)
    assert PathManager.get_local_path("regnet://pycls/regnetx_200mf") == path
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns
    assert len(online.log) == 1


def test_force_asks_again(online, published):
    path = PathManager.get_local_path(NAME)
    online.files[f"/{FILE}"] = pycls_checkpoint(seed=1)[0]
    assert PathManager.get_local_path(NAME) == path
    assert PathManager.get_local_path(NAME, force=True) != path
    assert len(online.log) == 2


@pytest.mark.parametrize("layout", [FILE, PATH, f"dl.fbaipublicfiles.com/{PATH}"])
def test_mirror_layouts(server, published, layout, tmp_path, monkeypatch):
    folder = tmp_path / "mirror"
    (folder / layout).parent.mkdir(parents=True)
    (folder / layout).write_bytes(published[0])
    monkeypatch.setenv(catalog.MIRROR, str(folder))
    assert_converted(PathManager.get_local_path(NAME), published)

    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "another"))
    monkeypatch.setenv(catalog.MIRROR, f"{server.url}/files/")
    server.files[f"/files/{layout}"] = published[0]
    assert_converted(PathManager.get_local_path(NAME), published)


def test_a_mirror_folder_is_not_copied(mirror, cache):
    path = PathManager.get_local_path(NAME)
    assert files(cache) == [os.path.relpath(path, cache)]


def test_another_original_is_converted_anew(mirror, published):
    first = PathManager.get_local_path(NAME)
    other = pycls_checkpoint(seed=1)
    (mirror / FILE).write_bytes(other[0])
    second = PathManager.get_local_path(NAME)
    assert second != first
    assert_converted(first, published)
    assert_converted(second, other)


def test_a_conversion_outlives_its_original(mirror):
    path = PathManager.get_local_path(NAME)
    (mirror / FILE).unlink()
    assert PathManager.get_local_path(NAME) == path


def test_a_newer_converter_reuses_nothing(mirror, monkeypatch):
    path = PathManager.get_local_path(NAME)
    monkeypatch.setattr(catalog, "_converter", lambda: "01234567")
    newer = PathManager.get_local_path(NAME)
    assert newer != path
    (mirror / FILE).unlink()
    assert PathManager.get_local_path(NAME) == newer


def test_a_broken_download_goes_on(online, published):
    online.cut = len(published[0]) * 2 // 3
    assert_converted(PathManager.get_local_path(NAME), published)
    assert online.log == [(f"/{FILE}", None), (f"/{FILE}", f"bytes={online.cut}-")]


def test_two_processes_download_once(online, published, cache):
    """The second asks while the first is in the middle of its download."""
    online.held = threading.Event()
    script = f"from d2_regnet.checkpoint import catalog; print(catalog.get_local_path({NAME!r}))"
    first = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    while not online.log and first.poll() is None:
        time.sleep(0.02)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(catalog.get_local_path, NAME)
        online.held.set()
        path = second.result()
    assert first.communicate()[0].strip() == path
    assert [asked for asked, _ in online.log] == [f"/{FILE}"]
    assert_converted(path, published)
    assert files(cache) == [os.path.relpath(path, cache), PATH]


def test_detectron2s_own_weights_are_used_as_they_are(mirror, cache):
    file = mirror / "model_final_b7fbab.pkl"
    file.write_bytes(pickle.dumps({"model": {"w": np.zeros(2, np.float32)}}))
    name = "regnet://detectron2/mask_rcnn_regnetx_4.0gf_fpn_lsj_100ep"
    assert PathManager.get_local_path(name) == str(file)
    assert files(cache) == []


# What goes wrong, in one line


def refused(kind, name=NAME):
    with pytest.raises(kind) as caught:
        PathManager.get_local_path(name)
    message = str(caught.value)
    assert "\n" not in message
    assert name in message
    return message


def test_without_a_network_the_error_says_what_to_do(cache):
    message = refused(ConnectionError)
    assert f"cannot reach {URL}" in message
    assert f"put {FILE} into the folder that D2_REGNET_MIRROR names (now: not set)" in message
    assert files(cache) == []


def test_a_file_of_the_hub_has_a_name_of_its_own(mirror):
    pytest.importorskip("timm")
    message = refused(ConnectionError, "regnet://timm/regnetx_032.pycls_in1k")
    assert f"put regnetx_032.pycls_in1k.safetensors into the folder that {catalog.MIRROR}" in (
        message
    )
    assert f"(now: {mirror})" in message


def test_a_mirror_without_the_file(online, cache):
    del online.files[f"/{FILE}"]
    message = refused(FileNotFoundError)
    assert "HTTP 404" in message
    assert URL in message
    assert len(online.log) == 3
    assert files(cache) == []


def test_a_mirror_that_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(catalog.MIRROR, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="D2_REGNET_MIRROR=.*nowhere is not a folder"):
        PathManager.get_local_path(NAME)


@pytest.mark.parametrize(
    "name, file, digits",
    [
        ("mmdet/regnetx_3.2gf", "regnetx_3.2gf-c2599b0f.pth", "c2599b0f"),
        (
            "mmdet/cascade_mask_rcnn_regnetx_1.6gf_fpn_3x",
            "cascade_mask_rcnn_regnetx-1_20210715_211616-75f29a61.pth",
            "75f29a61",
        ),
        (
            "torchvision/regnet_y_400mf.IMAGENET1K_V1",
            "regnet_y_400mf-c65dace8.pth",
            "c65dace8",
        ),
    ],
)
def test_wrong_hash(mirror, online, published, cache, name, file, digits, monkeypatch):
    name = f"regnet://{name}"
    online.files[f"/{file}"] = published[0]
    message = refused(ValueError, name)
    assert digits in message
    assert files(cache) == []

    monkeypatch.setenv(catalog.MIRROR, str(mirror))
    (mirror / file).write_bytes(published[0])
    message = refused(ValueError, name)
    assert digits in message
    assert f"replace or remove {mirror / file}" in message
    assert files(cache) == []
    assert (mirror / file).exists()


def test_not_a_checkpoint(mirror, cache):
    (mirror / FILE).write_bytes(b"<html>please log in</html>")
    assert f"replace or remove {mirror / FILE}" in refused(ValueError)
    assert files(cache) == []


@pytest.mark.parametrize(
    "name, file",
    [
        ("pycls/RegNetX-400MF", "RegNetX-400MF_dds_8gpu.pyth"),
        ("timm/regnetx_002.pycls_in1k", "regnetx_002.pycls_in1k.safetensors"),
    ],
)
def test_another_network_than_the_name_says(mirror, published, cache, name, file):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    (mirror / file).write_bytes(published[0])
    assert f"replace or remove {mirror / file}" in refused(ValueError, f"regnet://{name}")
    assert files(cache) == []


def test_a_cache_that_cannot_be_written(mirror, online, cache, monkeypatch):
    cache.mkdir()
    (cache / "d2_regnet").write_text("in the way")
    (cache / "pycls").write_text("in the way")
    for place in (str(mirror), online.url):
        monkeypatch.setenv(catalog.MIRROR, place)
        with pytest.raises(OSError, match=f"{cache}/.*set FVCORE_CACHE"):
            PathManager.get_local_path(NAME)


# Into Detectron2


def test_into_a_body(mirror, published):
    model = build_regnet("RegNetX-200MF")
    checkpointer = DetectionCheckpointer(model)
    checkpointer.load(NAME)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, published[1][name]), name


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_regnet_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.BACKBONE.NAME = "build_regnet_fpn_backbone"
    cfg.MODEL.REGNETS.ARCH = "RegNetX-200MF"
    cfg.MODEL.FPN.IN_FEATURES = ["s1", "s2", "s3", "s4"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.INPUT.MIN_SIZE_TEST = 64
    return cfg


def assert_body(model, published):
    body = model.backbone.bottom_up.state_dict()
    for name, tensor in body.items():
        assert torch.equal(tensor, published[1][name]), name


def test_into_a_detector(mirror, published, cfg):
    model = build_model(cfg)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    DetectionCheckpointer(model).load(NAME)
    assert_body(model, published)
    for name, tensor in model.state_dict().items():
        if "bottom_up" not in name:
            assert torch.equal(tensor, before[name]), name


def test_default_predictor(mirror, published, cfg):
    cfg.MODEL.WEIGHTS = NAME
    predictor = DefaultPredictor(cfg)
    assert_body(predictor.model, published)
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    assert predictor(picture)["instances"].image_size == (64, 96)


def test_a_row_of_the_model_zoo(mirror, monkeypatch):
    """A trained detector of MMDetection's, by the address that the model zoo gives."""
    row = "mask_rcnn_regnetx_400mf_fpn_3x"
    torch.manual_seed(0)
    trained = instantiate(model_zoo.get_config(row).model).state_dict()
    file = mirror / "mask_rcnn_regnetx-400MF_fpn_mstrain-poly_3x_coco_20210601_235443-8aac57a4.pth"
    torch.save({"state_dict": mmdet.from_detectron2(trained)}, file)
    monkeypatch.setattr(catalog.Published, "sha256", "")  # these weights are not the published
    loaded = model_zoo.get(row, trained=True, device="cpu").state_dict()
    for name, tensor in trained.items():
        assert torch.equal(loaded[name], tensor), name


def test_the_baselines_bodies(mirror, monkeypatch):
    original = resnet50()
    torch.save(original.state_dict(), mirror / "resnet50-0676ba61.pth")
    monkeypatch.setattr(catalog.Published, "sha256", "")
    converted = weights(PathManager.get_local_path("regnet://torchvision/resnet50.IMAGENET1K_V1"))
    body = build_resnet(50, out_features=["res5"])
    body.load_state_dict(converted)
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = torch.nn.Sequential(*list(original.eval().children())[:-2])(picture)
        assert torch.allclose(body.eval()(picture)["res5"], expected, rtol=1e-4, atol=1e-5)
