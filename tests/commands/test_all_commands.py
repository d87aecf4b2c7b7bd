"""What holds for every command: --help with an example and exit codes, bad input in one line."""

import importlib
import re

import pytest

from d2_regnet.commands import COMMANDS


@pytest.fixture(scope="module", params=COMMANDS)
def tool(request):
    return importlib.import_module(f"d2_regnet.commands.{request.param.replace('-', '_')}")


def ends(tool, arguments, capsys):
    """Exit code, stdout and stderr of a command line that is not to do any work."""
    with pytest.raises(SystemExit) as end:
        tool.main(arguments)
    return end.value.code, *capsys.readouterr()


def commands(help_text):
    """The names of the sub-commands that a --help lists."""
    part = help_text.partition("positional arguments:\n  COMMAND\n")[2].partition("\n\n")[0]
    return re.findall(r"^    (\w+)", part, re.M)


def test_there_are_commands():
    assert len(COMMANDS) >= 12


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
