"""The tables of faults, and a small part of the faults themselves."""

import subprocess
import sys

import pytest

from d2_regnet.data.findings import Kind
from tests.reliability import Result
from tests.reliability.data import _ANNOTATION_FAULTS
from tests.reliability.results import replace_section, table, totals


def test_table():
    results = [
        Result("one", "resumed", "nothing", True),
        Result("two", "stops", "a step", True),
        Result("one", "fails", "nothing", False),
    ]
    text = table(results)
    assert text.splitlines()[2:] == [
        "| one | 2 | resumed (1); fails (1) | nothing | 1 |",
        "| two | 1 | stops | a step | 0 |",
    ]
    assert totals(f"{text}\n\nmore\n\n{text}") == (6, 2)


def test_sections():
    text = "a\n<!-- one -->\nold\n<!-- /one -->\n<!-- two -->\n<!-- /two -->\n"
    text = replace_section(text, "one", "new")
    assert text == "a\n<!-- one -->\nnew\n<!-- /one -->\n<!-- two -->\n<!-- /two -->\n"
    assert replace_section(text, "two", "x").count("x") == 1
    with pytest.raises(ValueError, match="three"):
        replace_section(text, "three", "")


def test_every_kind_of_finding_is_tried():
    assert _ANNOTATION_FAULTS.keys() == {*Kind}


@pytest.mark.parametrize(
    "parts",
    [
        ["checkpoints", "data"],
        pytest.param(["kills", "disk"], marks=pytest.mark.slow),
        pytest.param(["signals", "steps"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_some_faults(root, parts):
    command = [sys.executable, "-m", "tests.reliability", "--share", "0.02", "--report", ""]
    result = subprocess.run([*command, "--only", *parts], capture_output=True, text=True, cwd=root)
    assert result.returncode == 0, result.stdout + result.stderr
