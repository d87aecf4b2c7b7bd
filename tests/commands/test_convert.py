"""`d2-regnet convert` in this process; test_convert_command.py runs it from a shell."""

from types import SimpleNamespace

import pytest
import timm
import torch

from d2_regnet.commands.convert import main


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory):
    """A checkpoint of timm's RegNetY-200MF."""
    state = timm.create_model("regnety_002").state_dict()
    path = tmp_path_factory.mktemp("source") / "regnety_002.pth"
    torch.save({"state_dict": state, "arch": "regnety_002"}, path)
    return SimpleNamespace(path=path)


def test_options_reach_the_conversion(timm_file, tmp_path, capsys):
    dst = tmp_path / "out.pth"
    arguments = [str(timm_file.path), str(dst), "--source", "timm", "--arch", "regnety_200mf"]
    main([*arguments, "--input-format", "BGR", "--overwrite"])
    out = capsys.readouterr().out
    assert "RegNetY-200MF from timm" in out and "BGR" in out
    assert "mapped stem" not in out
    main([*arguments, "--overwrite", "--verbose"])
    assert "mapped stem.conv.weight -> stem.conv.weight" in capsys.readouterr().out


def test_auto_is_what_the_file_shows(timm_file, tmp_path, capsys):
    arguments = [str(timm_file.path), str(tmp_path / "out.pth"), "--source", "auto"]
    main([*arguments, "--arch", "auto"])
    assert "RegNetY-200MF from timm" in capsys.readouterr().out


def test_a_tool_of_one_source_takes_no_other(timm_file, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--source", "pycls", str(timm_file.path), str(tmp_path / "out.pth")])
    assert exit.value.code == 2
    assert "pycls contradicts" in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()


def test_verbose_errors_keep_their_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "absent"), str(tmp_path / "out.pth"), "--verbose"])
    err = capsys.readouterr().err
    assert "Traceback" in err and err.splitlines()[-1].startswith("error: ")


def test_a_dry_run_checks_and_writes_nothing(timm_file, tmp_path, capsys):
    dst = tmp_path / "out.pth"
    assert main([str(timm_file.path), str(dst), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "RegNetY-200MF from timm" in out and "Dry run: nothing was written" in out
    assert not dst.exists()
    with pytest.raises(SystemExit) as exit:
        main([str(timm_file.path), str(dst), "--dry-run", "--source", "pycls"])
    assert exit.value.code == 2
