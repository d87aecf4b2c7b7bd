"""What the tests of all commands need: the command as a module, and how it refuses bad input."""

import importlib

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
