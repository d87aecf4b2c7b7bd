"""`d2-regnet` itself: the commands by name, and an output that nobody reads to its end."""

import subprocess
import sys

import pytest

from d2_regnet import __version__
from d2_regnet.commands import COMMANDS, main


def test_usage_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.endswith(f"d2-regnet {__version__}\n")


def test_an_unknown_command_is_refused_with_the_nearest(capsys):
    assert main(["predcit"]) == 2
    err = capsys.readouterr().err
    assert "'predcit'" in err and "predict" in err


@pytest.mark.parametrize("words", [["design", "describe", "RegNetX-400MF", "--json"], ["zoo"]])
def test_who_reads_may_leave(words):
    """As `| head` does: no traceback, no error."""
    code = (
        "import sys; from d2_regnet.commands import main\n"
        "sys.stdin.readline(); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *words]
    pipe = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen(command, **pipe, text=True) as process:
        process.stdout.close()
        process.stdin.write("go\n")
        process.stdin.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (141, "")
