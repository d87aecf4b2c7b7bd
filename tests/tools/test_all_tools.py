"""What holds for every tool: --help with an example and exit codes, bad input in one line."""

import re
from pathlib import Path

import pytest

TOOLS = sorted((Path(__file__).resolve().parents[2] / "tools").glob("*.py"))


@pytest.fixture(scope="module", params=TOOLS, ids=lambda path: path.stem)
def tool(request, load_file):
    return load_file(request.param)


def ends(tool, arguments, capsys):
    """Exit code, stdout and stderr of a command line that is not to do any work."""
    with pytest.raises(SystemExit) as end:
        tool.main(arguments)
    return end.value.code, *capsys.readouterr()


def commands(help_text):
    """The names of the sub-commands that a --help lists."""
    part = help_text.partition("positional arguments:\n  COMMAND\n")[2].partition("\n\n")[0]
    return re.findall(r"^    (\w+)", part, re.M)


def test_there_are_tools():
    assert len(TOOLS) >= 9


def test_help_shows_examples_and_exit_codes(tool, capsys):
    code, text, err = ends(tool, ["--help"], capsys)
    assert (code, err) == (0, "")
    for command in commands(text):
        code, about, _ = ends(tool, [command, "--help"], capsys)
        assert code == 0 and "--verbose" in about, command
    assert re.search(r"^    \$ \S", text, re.M), "no example"
    assert re.search(r"Exit codes: 0, .*\b1, .*\b2, ", text, re.S)
    assert "--verbose" in text


def test_each_has_a_dry_run(tool, capsys):
    text = ends(tool, ["--help"], capsys)[1]
    for command in commands(text):
        text += ends(tool, [command, "--help"], capsys)[1]
    assert "--dry-run" in text


def test_an_unknown_flag_is_bad_input_in_one_line(tool, refused):
    refused(tool.main, "--no-such-flag")
