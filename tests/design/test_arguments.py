import pytest

from d2_regnet.archs import get_arch, list_archs
from d2_regnet.design import arguments

TINY = "depth: 5\nw_0: 8\nw_a: 8\nw_m: 2\ngroup_width: 8\n"


@pytest.mark.parametrize(
    "text, value", [("400MF", 4e8), ("1.6GF", 1.6e9), ("1.6gf", 1.6e9), ("200m", 2e8)]
)
def test_flops(text, value):
    assert arguments.flops(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "400", "4 GF", "0MF", "1,6GF", "-1GF", "GF"])
def test_no_flops(text):
    with pytest.raises(ValueError, match="write 400MF or 1.6GF"):
        arguments.flops(text)


def test_size():
    assert arguments.size("800x1216") == (800, 1216)
    assert arguments.size("224") == (224, 224)
    with pytest.raises(ValueError, match="write HEIGHTxWIDTH"):
        arguments.size("800*1216")
    with pytest.raises(ValueError, match="16x800 is too small"):
        arguments.size("16x800")


def test_archs_of_names_files_and_folders(tmp_path):
    (tmp_path / "a.yaml").write_text(TINY)
    (tmp_path / "b.yaml").write_text(TINY + "se_ratio: 0.25\n")
    found = arguments.archs(["regnetx_400mf", str(tmp_path / "b.yaml"), str(tmp_path)])
    assert list(found) == ["RegNetX-400MF", "b", "a"]
    assert found["a"].depth == 5 and found["b"].family == "Y"
    assert arguments.archs([]) == {name: get_arch(name) for name in list_archs()}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no .yaml file"):
        arguments.archs([str(tmp_path / "empty")])
