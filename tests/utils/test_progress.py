import sys
import time

import pytest

from d2_regnet.utils.progress import progress


class Terminal:
    """What isatty() tells, and what is written."""

    def __init__(self, is_terminal: bool):
        self.text, self.is_terminal = "", is_terminal

    def isatty(self):
        return self.is_terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.fixture
def stderr(monkeypatch):
    """Called in a test, as pytest puts its own stderr there when the test begins."""

    def put(is_terminal):
        file = Terminal(is_terminal)
        monkeypatch.setattr(sys, "stderr", file)
        return file

    return put


def test_away_from_a_terminal_there_is_a_line_now_and_then(stderr):
    stderr = stderr(False)
    for _ in progress(range(4), every=0.01, desc="images"):
        time.sleep(0.02)  # at least: each step is due a line
    lines = stderr.text.splitlines()
    assert 1 <= len(lines) <= 4 and all(line.startswith("images: ") for line in lines)
    assert "\r" not in stderr.text
    assert lines[-1].count("/4 ") == 1


def test_what_takes_no_time_prints_nothing(stderr):
    stderr = stderr(False)
    assert list(progress(range(4), every=3600)) == [0, 1, 2, 3]
    assert stderr.text == ""


def test_a_terminal_has_a_bar(stderr):
    stderr = stderr(True)
    list(progress(range(4), desc="images"))
    assert "100%" in stderr.text and "\r" in stderr.text
