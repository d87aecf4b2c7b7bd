"""Files are whole or as they were; folders are checked before the work."""

import os

import pytest

from d2_regnet.utils.files import check_file, check_folder, whole_file, write_file


def test_takes_the_place_of_the_old_one_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half-way"), whole_file(path) as file:
        file.write(b"ne")
        raise RuntimeError("half-way")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "none" / "a.txt"):
        pass


def test_folders_that_can_be_written_to(tmp_path, monkeypatch):
    check_folder(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    for below in ("file", "file/below"):
        with pytest.raises(ValueError, match="^--to: .*/file is not a folder$"):
            check_folder(tmp_path / below, "--to")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="--output: nothing may be written to"):
        check_folder(tmp_path / "a")


def test_a_file_to_be_written_is_checked_and_then_whole(tmp_path):
    file = tmp_path / "a.txt"
    check_file(file, "--save")
    assert not file.exists()
    write_file(file, "größe\n")
    assert file.read_bytes() == "größe\n".encode()
    with pytest.raises(FileExistsError, match=r"--save: .*a\.txt exists; --overwrite replaces it"):
        check_file(file, "--save")
    check_file(file, "--save", overwrite=True)
    write_file(file, b"\x00")
    assert file.read_bytes() == b"\x00"
    with pytest.raises(FileNotFoundError, match="--save: there is no folder"):
        check_file(tmp_path / "none" / "a.txt", "--save")
    with pytest.raises(ValueError, match="is a folder"):
        check_file(tmp_path, "--save", overwrite=True)
