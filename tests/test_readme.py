"""Runs the README: every command and every snippet, in order, in a folder laid out as it says."""

import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

from d2_regnet import build_regnet, commands, model_zoo
from d2_regnet.checkpoint import mmdet

# What is added to a command so that it ends in seconds: little data, small images, no download.
# A command that none of these begins runs as it stands.
SMALL = {
    "make": ["--dry-run"],
    "pip install": ["--dry-run", "--no-deps", "--no-build-isolation", "--no-index"],
    # In the place of the published weights, those of `write_published`.
    "d2-regnet predict": ["--device cpu --weights mask_rcnn.pth"],
    "d2-regnet finetune": ["--dry-run --weights mask_rcnn.pth"],
    "d2-regnet export": ["--dry-run --weights mask_rcnn.pth"],
    "d2-regnet train": [
        "train.device=cpu",
        "dataloader.test.mapper.augmentations.0.short_edge_length=64",
        "dataloader.test.num_workers=0",
    ],
}
SMALL_TRAINING = [
    "train.init_checkpoint=''",
    "train.max_iter=1",
    "dataloader.train.mapper.augmentations.0.short_edge_length=[64,64]",
    "dataloader.train.total_batch_size=1",
    "dataloader.train.num_workers=0",
]


def write_coco(folder: Path) -> None:
    """A COCO of one image a split, with COCO's own categories."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    box = [8, 8, 40, 32]
    polygon = [8, 8, 48, 8, 48, 40, 8, 40]
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 1280, "iscrowd": 0}
    image = {"id": 1, "file_name": "1.jpg", "height": 64, "width": 96}
    categories = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
    for split in ("train2017", "val2017"):
        (folder / split).mkdir(parents=True)
        Image.fromarray(pixels).save(folder / split / "1.jpg")
        annotations = folder / "annotations" / f"instances_{split}.json"
        annotations.parent.mkdir(exist_ok=True)
        content = {
            "info": {},
            "images": [image],
            "annotations": [person | {"segmentation": [polygon]}],
            "categories": categories,
        }
        annotations.write_text(json.dumps(content))


def write_published(folder: Path) -> None:
    """What a user has downloaded, with random weights: a backbone, two detectors."""
    backbone = build_regnet("RegNetX-400MF", norm="BN").state_dict()
    head = {"head.fc.weight": torch.zeros(1000, 384), "head.fc.bias": torch.zeros(1000)}
    torch.save({"model_state": backbone | head}, folder / "RegNetX-400MF_dds_8gpu.pyth")

    detector = model_zoo.get_config("mask_rcnn_regnetx_400mf_fpn_3x").model
    model = instantiate(detector).state_dict()
    torch.save({"model": model}, folder / "mask_rcnn.pth")
    state = mmdet.from_detectron2(model)
    torch.save({"state_dict": state, "meta": {}}, folder / "mask_rcnn_regnetx-400MF.pth")

    detector = model_zoo.get_config("mask_rcnn_regnetx_4.0gf_fpn_lsj_100ep").model
    state = {name: tensor.numpy() for name, tensor in instantiate(detector).state_dict().items()}
    with (folder / "model_final_b7fbab.pkl").open("wb") as file:
        pickle.dump({"model": state, "__author__": "test"}, file)


@pytest.fixture
def folder(root, tmp_path, monkeypatch) -> Path:
    """Where the README is followed: what the checkout holds, beside the user's files."""
    for name in ("d2_regnet", "Makefile", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).symlink_to(root / name)
    write_coco(tmp_path / "datasets/coco")
    write_published(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("input.jpg", "photos/1.jpg"):
        Image.new("RGB", (96, 64), "gray").save(tmp_path / name)
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(f"datasets/coco/{split}2017")
        annotations = f"datasets/coco/annotations/instances_{split}2017.json"
        (tmp_path / f"{split}.json").symlink_to(annotations)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(root / "configs")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("D2_REGNET_MIRROR", str(tmp_path))
    return tmp_path


def blocks(readme: str) -> list[tuple[str, str]]:
    """(language, code) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", readme, re.M | re.S)


def shortened(command: str) -> str:
    """The command, ending in seconds."""
    for beginning, extra in SMALL.items():
        if command.startswith(beginning):
            command = " ".join([command.partition("  #")[0], *extra])
            if command.startswith("d2-regnet train") and "--eval-only" not in command:
                command = " ".join([command, *SMALL_TRAINING])
    return command


def run_bash(code: str) -> None:
    """Line by line; the installed command without a process of its own, to import once."""
    for line in code.replace("\\\n", " ").splitlines():
        command = shortened(line)
        if command.startswith("d2-regnet "):
            assert not commands.main(shlex.split(command, comments=True)[1:]), command
        else:
            done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def run_python(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_every_command_and_snippet_runs(root, folder):
    found = blocks((root / "README.md").read_text())
    assert {language for language, _ in found} == {"bash", "python"}
    for language, code in found:
        {"bash": run_bash, "python": run_python}[language](code)
    assert (folder / "output/predicted/predictions.json").is_file()
    assert (folder / "output/mask_rcnn/model_final.pth").is_file()
    assert (folder / "regnetx_400mf.pth").is_file()
    assert (folder / "mask_rcnn.safetensors").is_file()


def test_every_target_of_the_readme_is_real(root):
    readme = (root / "README.md").read_text()
    links = re.findall(r"\]\((?!http)([^)]+)\)", readme)
    assert links
    assert not [link for link in links if not (root / link).exists()]
    targets = set(re.findall(r"make (\w[\w-]*)", readme))
    assert targets >= {"demo", "test"}
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=root, check=True, capture_output=True)


def test_the_readme_is_one_page(root):
    assert len((root / "README.md").read_text().splitlines()) <= 120
