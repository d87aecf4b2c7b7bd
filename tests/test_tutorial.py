"""Follows docs/guides/finetune.md: every command and snippet in order, made to end in seconds."""

import re
import shlex

import pytest

from d2_regnet.commands import main

# What is added so that a command ends in seconds; the demo's place takes a tiny detector.
SMALL = {
    "finetune": [
        *("train.max_iter=2", "dataloader.train.num_workers=0", "dataloader.test.num_workers=0"),
    ],
    "train": ["train.max_iter=1"],
    "predict": ["--device", "cpu"],
}


def run(line):
    _, *words = shlex.split(line, comments=True)
    extra = SMALL.get(words[0], [])
    if "--resume" in words:
        extra = ["train.max_iter=3"]
    assert not main([*words, *extra]), line


def test_every_command_runs(root, tiny_run, tmp_path, monkeypatch):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "demo").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    text = (root / "docs" / "guides" / "finetune.md").read_text()
    found = re.findall(r"^```(bash|python)\n(.*?)^```$", text, re.M | re.S)
    seen = []
    for language, code in found:
        if language == "python":
            code = code.replace('"train": 300, "val": 80', '"train": 8, "val": 3')
            code = code.replace("max_iter=100", "max_iter=1")
            exec(compile(code, "finetune.md", "exec"), {"__name__": "tutorial"})
            continue
        for line in code.splitlines():
            if line.startswith("d2-regnet "):
                run(line)
            else:
                assert line == "make demo"
            seen.append(line)
    assert len(seen) >= 7
    for name in ("mine/report/report.html", "found/predictions.csv", "again/model_final.pth"):
        assert (tmp_path / "output" / name).is_file(), name
    assert (tmp_path / "output" / "python" / "report" / "report.html").is_file()


@pytest.mark.parametrize("page", ["finetune.md", "predict.md"])
def test_nothing_is_left_to_fill_in(root, page):
    text = (root / "docs" / "guides" / page).read_text()
    assert not re.search(r"^(PLAN|WORTH|BATCH_FIGURES|TODO)", text, re.M)
