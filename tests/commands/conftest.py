"""What the tests of all commands need: the command as a module, and how it refuses bad input."""

import importlib
import runpy
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def tool(request):
    """The command that the test file is named after, as a module."""
    name = request.path.stem.removeprefix("test_").removesuffix("_command")
    return importlib.import_module(f"d2_regnet.commands.{name}")


@pytest.fixture
def refused(capsys):
    """`refused(main, *arguments)`: the one line with which bad input ends a tool, exit code 2."""

    def refuse(main, *arguments):
        with pytest.raises(SystemExit) as end:
            main([str(each) for each in arguments])
        err = capsys.readouterr().err
        assert end.value.code == 2, err
        assert err.startswith("error: ") and err.count("\n") == 1, err
        return err

    return refuse


@pytest.fixture
def run_script(root, monkeypatch, capfd):
    """`run_script("tools/x.py", "--flag")`: the script as a shell runs it, what it printed and its
    exit code; in this process, which has torch loaded already."""

    def run(script, *arguments):
        command = [str(root / script), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(command[0], run_name="__main__")
        return subprocess.CompletedProcess(command, end.value.code or 0, *capfd.readouterr())

    return run
