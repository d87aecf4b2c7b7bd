"""`d2-regnet convert` as it is run from a shell."""

import torch
from torchvision.models import regnet_x_400mf

from d2_regnet.checkpoint import read


def test_convert_and_refuse(run_script, tmp_path):
    def run(*arguments):
        return run_script("d2_regnet/__main__.py", "convert", *arguments)

    torch.save(regnet_x_400mf().state_dict(), tmp_path / "src.pth")
    src, dst = tmp_path / "src.pth", tmp_path / "dst.safetensors"
    done = run(src, dst, "--input-format", "BGR", "--verbose")
    assert done.returncode == 0, done.stderr
    assert "RegNetX-400MF-torchvision from torchvision" in done.stdout
    assert "mapped stem.0.weight -> stem.conv.weight" in done.stdout
    assert "dropped fc.weight: classifier head" in done.stdout
    assert read(dst).meta["input_format"] == "BGR"
    before = dst.read_bytes()
    again = run(src, dst)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("error: ") and "--overwrite" in again.stderr
    assert again.stderr.count("\n") == 1
    assert dst.read_bytes() == before
    wrong = run(src, tmp_path / "other.pth", "--source", "timm")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    assert "timm contradicts" in wrong.stderr
    assert not (tmp_path / "other.pth").exists()
