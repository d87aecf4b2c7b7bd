import warnings

import pytest

from d2_regnet.utils.cli import ToolParser, bad_input, failure


def test_parser_shows_examples_and_exit_codes(capsys):
    parser = ToolParser("Does it.", "Once:\n    $ %(prog)s one", prog="tool", dry_run="only say it")
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert "    $ tool one\n" in out
    assert "Exit codes: 0, done; 1, failed; 2, bad input" in out
    assert "--dry-run" in out and "--verbose" in out


def test_examples_can_be_pasted(monkeypatch):
    monkeypatch.setattr("sys.argv", ["tools/does_it.py"])
    text = ToolParser("Does it.", "Once:\n    $ %(prog)s one").format_help()
    assert "$ python tools/does_it.py one" in text


def test_parser_refuses_in_one_line(capsys):
    parser = ToolParser("Does it.", prog="tool")
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--nonsense"])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: unrecognized arguments: --nonsense")
    assert err.count("\n") == 1


def test_a_sub_command_shares_the_parser(capsys):
    parser = ToolParser("Does it.", prog="tool")
    parser.add_subparsers(dest="command").add_parser("one", description="One.")
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["one", "--nonsense"])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "words, verbose",
    [(["one"], False), (["--verbose", "one"], True), (["one", "--verbose"], True)],
)
def test_verbose_goes_before_or_after_a_sub_command(words, verbose):
    parser = ToolParser("Does it.", prog="tool")
    parser.add_subparsers(dest="command").add_parser("one", description="One.")
    assert parser.parse_args(words).verbose is verbose


@pytest.mark.parametrize(
    "guard, error, code",
    [
        (bad_input, ValueError("no\nsuch thing"), 2),
        (bad_input, FileNotFoundError("no such thing"), 2),
        (failure, RuntimeError("no such\n  thing"), 1),
    ],
)
def test_errors_are_one_line(guard, error, code, capsys):
    with pytest.raises(SystemExit) as end, guard():
        raise error
    assert end.value.code == code
    err = capsys.readouterr().err
    assert err.startswith("error: no such thing") and err.count("\n") == 1


@pytest.mark.parametrize("guard", [bad_input, failure])
def test_verbose_shows_the_traceback(guard, capsys):
    with pytest.raises(SystemExit), guard(verbose=True):
        raise ValueError("wrong")
    assert "Traceback" in capsys.readouterr().err


def test_a_defect_is_not_the_users_fault():
    with pytest.raises(KeyError), bad_input():
        raise KeyError("defect")


@pytest.mark.parametrize("parse", ["parse_args", "parse_intermixed_args"])
def test_detectron2s_deprecations_show_with_verbose_only(parse):
    for words, shown in (([], 1), (["--verbose"], 2)):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            getattr(ToolParser("Does it.", prog="tool"), parse)(words)
            warnings.warn("pkg_resources is deprecated as an API", UserWarning, stacklevel=1)
            warnings.warn("one's own", UserWarning, stacklevel=1)
        assert len(seen) == shown
