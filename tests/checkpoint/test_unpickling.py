"""Pickles of arrays, of every protocol and layout."""

import pickle

import numpy as np
import pytest

from d2_regnet.checkpoint.unpickling import Refused, load_arrays

ARRAYS = {
    "plain": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "swapped": np.arange(3, dtype=">f4"),
    "counter": np.array(7),
    "empty": np.zeros((0, 3), np.float16),
    "flags": np.array([True, False]),
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_back(protocol, tmp_path):
    content = {"model": ARRAYS, "scale": np.float64(2.0), "names": ("a", ["b", None])}
    (tmp_path / "arrays").write_bytes(pickle.dumps(content, protocol))
    loaded = load_arrays(tmp_path / "arrays")
    assert loaded["names"] == content["names"]
    for name, array in ARRAYS.items():
        found = loaded["model"][name].array
        assert (found.dtype, found.shape) == (array.dtype, array.shape), name
        assert np.array_equal(found, array), name


@pytest.mark.parametrize(
    "value",
    [np.array([None]), np.zeros(2, "c8"), np.zeros(2, "U3"), np.zeros(2, [("a", "f4")]), print],
)
def test_anything_else_is_refused(value, tmp_path):
    (tmp_path / "arrays").write_bytes(pickle.dumps({"model": {"x": value}}))
    with pytest.raises(Refused):
        load_arrays(tmp_path / "arrays")


def test_a_shape_that_the_bytes_do_not_fill_is_an_error(tmp_path):
    data = pickle.dumps(np.arange(4.0), 2)
    (tmp_path / "arrays").write_bytes(data.replace(b"K\x04\x85", b"K\x09\x85"))
    assert data.count(b"K\x04\x85") == 1
    with pytest.raises(ValueError, match="reshape"):
        load_arrays(tmp_path / "arrays")
