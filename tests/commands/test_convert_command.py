"""`d2-regnet convert` as it is run from a shell."""

import subprocess
import sys

import torch
from torchvision.models import regnet_x_400mf

from d2_regnet.checkpoint import read


def run(root, *arguments):
    command = [sys.executable, "-m", "d2_regnet", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300)


def test_convert_and_refuse(root, tmp_path):
    torch.save(regnet_x_400mf().state_dict(), tmp_path / "src.pth")
    src, dst = tmp_path / "src.pth", tmp_path / "dst.safetensors"
    done = run(root, src, dst, "--input-format", "BGR", "--verbose")
    assert done.returncode == 0, done.stderr
    assert "RegNetX-400MF-torchvision from torchvision" in done.stdout
    assert "mapped stem.0.weight -> stem.conv.weight" in done.stdout
    assert "dropped fc.weight: classifier head" in done.stdout
    assert read(dst).meta["input_format"] == "BGR"
    before = dst.read_bytes()
    again = run(root, src, dst)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("error: ") and "--overwrite" in again.stderr
    assert again.stderr.count("\n") == 1
    assert dst.read_bytes() == before
    wrong = run(root, src, tmp_path / "other.pth", "--source", "timm")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    assert "timm contradicts" in wrong.stderr
    assert not (tmp_path / "other.pth").exists()
