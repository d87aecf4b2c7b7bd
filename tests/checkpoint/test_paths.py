"""What Detectron2's PathManager makes of ``regnet://`` (checkpoint/test_catalog.py has more)."""

import pickle

import numpy as np
import pytest
from detectron2.utils.file_io import PathManager

import d2_regnet  # noqa: F401  registers the handler

WEIGHTS = pickle.dumps({"model": {"w": np.zeros(2, np.float32)}})
NAME = "regnet://detectron2/mask_rcnn_regnety_4.0gf_fpn_lsj_100ep"


@pytest.fixture(autouse=True)
def mirror(tmp_path, monkeypatch):
    """A mirror with one file, which needs no conversion."""
    (tmp_path / "model_final_6ba57e.pkl").write_bytes(WEIGHTS)
    monkeypatch.setenv("D2_REGNET_MIRROR", str(tmp_path))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_name_is_a_file(mirror):
    assert PathManager.get_local_path(NAME) == str(mirror / "model_final_6ba57e.pkl")
    assert PathManager.exists(NAME)
    assert PathManager.isfile(NAME)
    assert not PathManager.isdir(NAME)


def test_opened_for_reading():
    with PathManager.open(NAME, "rb") as file:
        assert file.read() == WEIGHTS
    with PathManager.open(NAME) as file:
        assert file.buffer.read() == WEIGHTS  # opened as text, as it is by default
    with pytest.raises(ValueError, match="can only be read, not opened in mode 'wb'"):
        PathManager.open(NAME, "wb")


def test_an_unknown_name_is_no_file():
    name = "regnet://detectron2/mask_rcnn"
    assert not PathManager.exists(name)
    assert not PathManager.isfile(name)
    with pytest.raises(ValueError, match="unknown weights 'regnet://detectron2/mask_rcnn'"):
        PathManager.get_local_path(name)


def test_unknown_arguments_are_refused():
    with pytest.raises(ValueError, match="Unused arguments"):
        PathManager.get_local_path(NAME, cache_dir="elsewhere")
