"""The config files: complete, short, current, and each one trains and predicts."""

import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from d2_regnet import model_zoo

ROWS = model_zoo.list()
# One of each detector and backbone in the fast suite; every row in the slow one.
FAST = [
    "cascade_mask_rcnn_regnetx_400mf_fpn_3x",
    "mask_rcnn_regnetx_3.2gf_dcn_fpn_1x",
    "retinanet_regnetx_800mf_fpn_1x",
    "faster_rcnn_r50_fpn_1x",
]


def test_every_row_has_its_two_files(root):
    lazy = {path.stem for path in (root / "configs").glob("*_fpn_*.py")}
    lazy -= {name for name in lazy if name.endswith("_shapes")}  # the demo's, no published row
    yaml = {path.stem for path in (root / "configs" / "yaml").glob("*.yaml")}
    assert lazy == yaml == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_files_are_short_and_complete(root, name):
    path = root / "configs" / f"{name}.py"
    assert len(path.read_text().splitlines()) <= 15
    cfg = LazyConfig.load(str(path))
    assert set(cfg) == {"model", "dataloader", "optimizer", "lr_multiplier", "train"}


def run(root, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(root / "docs" / "generate_model_zoo.py"), *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
    )


def test_what_is_derived_is_not_stale(root):
    """If this fails: run `python docs/generate_model_zoo.py`."""
    result = run(root, "--check")
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


@pytest.mark.slow
def test_staleness_is_noticed_and_mended(root, tmp_path):
    for folder in ("d2_regnet", "configs", "docs"):
        shutil.copytree(root / folder, tmp_path / folder)
    shutil.copy(root / "MODEL_ZOO.md", tmp_path)
    page = tmp_path / "MODEL_ZOO.md"
    page.write_text(page.read_text().replace("| 40.3 |", "| 50.3 |"))
    row = tmp_path / "configs" / "mask_rcnn_r50_fpn_1x.py"
    row.write_text(row.read_text().replace('"1x"', '"2x"'))
    left_over = tmp_path / "configs" / "yaml" / "mask_rcnn_r18_fpn_1x.yaml"
    left_over.write_text("VERSION: 2\n")

    stale = run(tmp_path, "--check")
    assert stale.returncode == 1
    assert sorted(stale.stdout.split("\n")[:-1]) == [
        "stale: MODEL_ZOO.md",
        "stale: configs/yaml/mask_rcnn_r18_fpn_1x.yaml",
        "stale: configs/yaml/mask_rcnn_r50_fpn_1x.yaml",
    ]
    assert left_over.exists()
    assert run(tmp_path).returncode == 0
    assert run(tmp_path, "--check").returncode == 0
    assert page.read_text() == (root / "MODEL_ZOO.md").read_text()
    assert not left_over.exists()


# --- Training and prediction on a real image ------------------------------------------------


@pytest.fixture(scope="module")
def picture(shared):
    """A real image, small: (H, W, 3) uint8 in BGR."""
    path = sorted((shared / "data" / "coco" / "val2017").glob("*.jpg"))[0]
    return cv2.resize(cv2.imread(str(path)), (160, 128))


def as_input(picture, input_format, masks):
    pixels = picture if input_format == "BGR" else picture[:, :, ::-1].copy()
    height, width = picture.shape[:2]
    boxes = torch.tensor([[10.0, 20.0, 90.0, 110.0], [70.0, 5.0, 150.0, 60.0]])
    instances = Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([0, 17]))
    if masks:
        bitmaps = torch.zeros(2, height, width, dtype=torch.bool)
        for bitmap, (x0, y0, x1, y1) in zip(bitmaps, boxes.int().tolist()):
            bitmap[y0:y1, x0:x1] = True
        instances.gt_masks = BitMasks(bitmaps)
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return {"image": image, "instances": instances, "height": height, "width": width}


@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ROWS],
)
def test_trains_a_step_and_predicts(name, picture, seed):
    cfg = model_zoo.get_config(name)
    masks = "mask" in name
    if "lsj" in name:
        # What synchronizes norms between GPUs does not train on a CPU.
        cfg.model.backbone.bottom_up.norm = cfg.model.backbone.norm = "BN"
    model = instantiate(cfg.model).train()
    optimizer = cfg.optimizer
    optimizer.params.model = model
    optimizer = instantiate(optimizer)
    statistics = {key: value.clone() for key, value in model.named_buffers() if "running" in key}
    frozen = {
        key: value.clone() for key, value in model.named_parameters() if not value.requires_grad
    }

    with EventStorage():
        losses = model([as_input(picture, cfg.model.input_format, masks)] * 2)
    assert losses and all(torch.isfinite(loss) for loss in losses.values()), losses
    sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    before = {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}
    optimizer.step()

    moved = [
        key for key, p in model.named_parameters() if key in before and (p != before[key]).any()
    ]
    assert len(moved) > 0.9 * len(before)
    after = dict(model.named_buffers()) | dict(model.named_parameters())
    if "lsj" not in name:
        for key, value in {**statistics, **frozen}.items():
            assert torch.equal(after[key], value), key

    model.eval()
    image = as_input(picture, cfg.model.input_format, masks)
    with torch.no_grad():
        (found,) = model([{key: image[key] for key in ("image", "height", "width")}])
    instances = found["instances"]
    assert instances.image_size == picture.shape[:2]
    assert instances.has("pred_masks") == masks
    assert instances.pred_boxes.tensor.isfinite().all() and instances.scores.isfinite().all()
