"""tools/convert_pycls.py as it is run from a shell."""

import timm
import torch

from d2_regnet.checkpoint import read
from d2_regnet.modeling.backbone.regnet import build_regnet


def test_convert_and_refuse(run_script, tmp_path):
    def run(*arguments):
        return run_script("tools/convert_pycls.py", *arguments)

    state = build_regnet("RegNetX-200MF", norm="BN").state_dict()
    head = {"head.fc.weight": torch.zeros(1000, 368), "head.fc.bias": torch.zeros(1000)}
    src, dst = tmp_path / "RegNetX-200MF_dds_8gpu.pyth", tmp_path / "dst.pth"
    torch.save({"epoch": 99, "model_state": {**state, **head}, "cfg": ""}, src)
    done = run(src, dst)
    assert done.returncode == 0, done.stderr
    assert "RegNetX-200MF from pycls" in done.stdout
    assert "dropped 2 (classifier head)" in done.stdout
    assert (read(dst).meta["source"], read(dst).meta["input_format"]) == ("pycls", "BGR")
    torch.save(timm.create_model("regnetx_002").state_dict(), tmp_path / "timm.pth")
    wrong = run(tmp_path / "timm.pth", tmp_path / "other.pth")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    assert "pycls contradicts the file, whose names are timm's" in wrong.stderr
    assert not (tmp_path / "other.pth").exists()
