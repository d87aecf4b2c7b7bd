"""Files that are written whole or not at all."""

import os
import resource
import subprocess

import pytest
import torch

from d2_regnet.checkpoint import convert, read
from d2_regnet.checkpoint.writing import write

SUFFIXES = (".pth", ".pkl", ".safetensors")


@pytest.mark.parametrize(
    ("dst", "error", "message"),
    [
        ("out.bin", ValueError, "must end in one of .pth, .safetensors, .pkl"),
        ("absent/out.pth", FileNotFoundError, "no folder .*absent"),
        ("folder.pth", ValueError, "is a folder"),
    ],
)
def test_destinations_that_cannot_be(dst, error, message, timm_file, tmp_path):
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(error, match=message):
        convert(timm_file.path, tmp_path / dst, overwrite=True)
    assert os.listdir(tmp_path) == ["folder.pth"]


def test_the_source_is_never_overwritten(timm_file):
    before = timm_file.path.read_bytes()
    with pytest.raises(ValueError, match="is the file to convert"):
        convert(timm_file.path, timm_file.path, overwrite=True)
    assert timm_file.path.read_bytes() == before


@pytest.fixture
def full_disk(tmp_path):
    """A folder with room for a tenth of the checkpoint, and a file in it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system of one megabyte can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_nothing_behind(suffix, timm_file, full_disk):
    dst = full_disk / f"out{suffix}"
    with pytest.raises(OSError, match=f"out{suffix}: could not be written .*[Nn]o space left"):
        convert(timm_file.path, dst)
    assert os.listdir(full_disk) == []
    dst.write_text("precious")
    with pytest.raises(OSError, match="could not be written"):
        convert(timm_file.path, dst, overwrite=True)
    assert os.listdir(full_disk) == [dst.name]
    assert dst.read_text() == "precious"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_nothing_behind(suffix, timm_file, tmp_path):
    # For where nothing can be mounted: no file may grow beyond a megabyte.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match="could not be written .*File too large"):
            convert(timm_file.path, tmp_path / f"out{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_only_the_tensors_are_written(suffix, tmp_path):
    # Parts of something large, tensors that share memory, and another order of memory.
    whole = torch.arange(1000000.0)
    state = {
        "a": whole[:6].view(2, 3),
        "b": whole[:6].view(2, 3).t(),
        "c": (tied := torch.ones(3)),
        "d": tied,
    }
    write(state, {"arch": "none"}, tmp_path / f"out{suffix}")
    assert (tmp_path / f"out{suffix}").stat().st_size < 5000
    written = read(tmp_path / f"out{suffix}").state
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in state.items())
