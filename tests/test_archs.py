"""RegNetArch against the published networks, each built and measured by pycls itself."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from d2_regnet.archs import RegNetArch, arch_name, get_arch, list_archs

FACTS = json.loads((Path(__file__).parent / "fixtures/regnet_archs.json").read_text())
SMALL = dict(depth=13, w_0=24, w_a=36.44, w_m=2.49, group_width=8)


def test_the_published_ones_are_listed_in_order():
    assert list_archs() == list(FACTS)


@pytest.mark.parametrize("name", FACTS)
def test_published_arch_equals_the_facts(name):
    arch, facts = get_arch(name), FACTS[name]
    for field in dataclasses.fields(arch):
        assert getattr(arch, field.name) == facts[field.name], field.name
    for field in ("stage_widths", "stage_depths", "stage_group_widths"):
        assert list(getattr(arch, field)) == facts[field], field
    assert arch.family == name[6]
    cost = arch.complexity(224)
    assert (cost.flops, cost.params, cost.acts) == (
        facts["flops_224"],
        facts["params"],
        facts["acts_224"],
    )


def test_complexity_of_a_rectangle_by_hand():
    # One block: stem 3->32 at 16x32, then proj, a (1x1, 32->8), b (3x3, 8->8), c (1x1, 8->8).
    arch = RegNetArch(depth=1, w_0=8, w_a=0, w_m=2, group_width=8)
    stem, stage, head = arch.stage_complexity((32, 64), num_classes=0)
    assert stem.flops == 9 * 3 * 32 * 16 * 32
    assert stage.flops == 32 * 8 * 16 * 32 + (32 * 8 + 9 * 8 * 8 + 8 * 8) * 8 * 16
    assert stage.params == 32 * 8 * 2 + 9 * 8 * 8 + 8 * 8 + 4 * 2 * 8
    assert stage.acts == 8 * 16 * 32 + 3 * 8 * 8 * 16
    assert head.flops == head.params == head.acts == 0


def test_compatibility_adjustment_by_hand():
    # Groups of 48 do not divide 88, 120...: pycls rounds widths to multiples of the group width.
    arch = RegNetArch(depth=1, w_0=88, w_a=0, w_m=2, group_width=48)
    assert (arch.stage_widths, arch.stage_group_widths) == ((96,), (48,))
    # Groups are never wider than the bottleneck.
    arch = RegNetArch(depth=1, w_0=24, w_a=0, w_m=2, group_width=64)
    assert (arch.stage_widths, arch.stage_group_widths) == ((24,), (24,))
    # A bottleneck of a quarter: 64 -> 16 channels, two groups of 8.
    arch = RegNetArch(depth=1, w_0=64, w_a=0, w_m=2, group_width=8, bottleneck_ratio=0.25)
    assert (arch.stage_widths, arch.stage_group_widths) == ((64,), (8,))


@pytest.mark.parametrize(
    "spelling",
    "RegNetX-3.2GF regnetx_3.2gf regnetx_3_2gf regnet_x_3_2gf REGNETX3.2GF regnetx-3200mf".split(),
)
def test_names_are_matched_tolerantly(spelling):
    assert arch_name(spelling) == "RegNetX-3.2GF"


def test_names_that_look_alike_are_kept_apart():
    assert arch_name("regnetx_32gf") == "RegNetX-32GF"
    assert arch_name("regnety_4gf") == "RegNetY-4.0GF"
    assert arch_name("regnetx_0.4gf") == "RegNetX-400MF"


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("regnetx_3.3gf", "RegNetX-3.2GF"),
        ("regnety_5gf", "RegNetY-4.0GF"),  # by size, not by spelling
        ("RegNetZ-400MF", "RegNetX-400MF"),
        ("regnetx_0gf", "RegNetX"),
        ("", "RegNetX"),
    ],
)
def test_unknown_name_lists_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=nearest):
        get_arch(name)


def test_mapping_of_parameters():
    assert get_arch(SMALL) == get_arch("RegNetX-200MF")
    with pytest.raises(ValueError, match="'widht'.*group_width"):
        get_arch({**SMALL, "widht": 3})
    with pytest.raises(ValueError, match="missing: w_m"):
        get_arch({k: v for k, v in SMALL.items() if k != "w_m"})


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"depth": 0}, "depth must be a positive integer"),
        ({"depth": 2.5}, "depth must be a positive integer"),
        ({"depth": True}, "depth must be a positive integer"),
        ({"w_0": 20}, "multiple of 8"),
        ({"w_a": -1}, "negative"),
        ({"w_a": float("nan")}, "w_a must be a finite number"),
        ({"w_m": 1}, "above 1"),
        ({"group_width": -8}, "group_width must be a positive integer"),
        ({"bottleneck_ratio": 0}, "bottleneck_ratio=0 must be > 0"),
        ({"bottleneck_ratio": "1"}, "bottleneck_ratio must be a finite number"),
        ({"se_ratio": 1.5}, r"outside \[0, 1\]"),
        ({"se_ratio": 0.01}, "leaves no channel"),
        ({"bottleneck_ratio": 1.5, "w_0": 40, "group_width": 16}, "do not divide"),
    ],
)
def test_impossible_parameters_are_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        RegNetArch(**{**SMALL, **change})


def test_module_needs_neither_torch_nor_detectron2():
    path = Path(sys.modules["d2_regnet.archs"].__file__)
    code = (
        "import importlib.util, sys; sys.modules['torch'] = sys.modules['detectron2'] = None;"
        f"spec = importlib.util.spec_from_file_location('archs', {str(path)!r});"
        "archs = importlib.util.module_from_spec(spec); sys.modules['archs'] = archs;"
        "spec.loader.exec_module(archs); print(len(archs.list_archs()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "24", done.stderr


OWN = "depth: 13\nw_0: 24\nw_a: 36.44\nw_m: 2.49\ngroup_width: 8\n"


def test_a_yaml_file_stands_for_an_arch(tmp_path):
    file = tmp_path / "my-Net.yaml"
    file.write_text(OWN + "se_ratio: 0.25\n")
    assert get_arch(str(file)) == get_arch(file) == get_arch("RegNetY-200MF")
    assert get_arch(get_arch(file)) == get_arch(file)


@pytest.mark.parametrize(
    "text, reason",
    [
        (OWN.replace("w_m: 2.49", "w_m: 1"), "w_m=1 must be above 1"),
        (OWN.replace("w_m", "w_n"), "unknown RegNet parameter 'w_n'.*w_m"),
        (OWN.replace("depth: 13\n", ""), "missing: depth"),
        (OWN.replace("24", "wide"), "w_0 must be a positive integer"),
        ("- 13\n- 24\n", "does not hold a RegNet's parameters"),
        ("", "does not hold a RegNet's parameters"),
        ("{", "is not YAML"),
        ("!!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_a_file_that_holds_no_arch_is_named(tmp_path, text, reason):
    file = tmp_path / "mine.yml"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"mine.yml.*{reason}"):
        get_arch(str(file))


def test_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="no file nets/mine.yaml.*RegNetX-3.2GF.*depth"):
        get_arch("nets/mine.yaml")
