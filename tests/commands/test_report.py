"""The command: numbers on the page, escaping, self-containedness, several runs, bad input."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image

RUNS = {
    "steady": dict(loss=1.25, ap=30.0),
    "quick": dict(loss=2.5, ap=20.5),
}


def write_run(folder, loss, ap, *, config=None, name="cat"):
    folder.mkdir(parents=True)
    records = [
        {"iteration": i, "total_loss": loss * 3 - i / 10, "lr": 0.02, "time": 0.5, "data_time": 0.1}
        for i in (0, 9)
    ] + [
        {"iteration": 19, "total_loss": loss, "loss_cls": loss, "lr": 0.002, "time": 0.25},
        {"iteration": 19, "bbox/AP": ap, "bbox/AP50": 1.5 * ap, "bbox/APl": float("nan")},
        {"iteration": 19, f"bbox/AP-{name}": ap + 1, "bbox/AP-dog": ap + 2, "bbox/AP-ox": 3.25},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.json").write_text(text + '{"iteration": 29, "total')
    if config is not None:
        (folder / "config.yaml").write_text(config)
    return folder


@pytest.fixture
def report(tool, tmp_path, monkeypatch):
    """The command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: tool.main([str(each) for each in arguments])


class Page(HTMLParser):
    """Tables as rows of texts, all text, and whatever an element could load or run."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.text, self.loaded, self.tags, self.cell = [], "", [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for key, value in attributes:
            if key in ("src", "srcset", "href", "data", "action") or key.startswith("on"):
                self.loaded.append((tag, key, value))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = None

    def handle_data(self, data):
        self.text += data
        if self.cell:
            self.rows[-1][-1] += data

    def values(self, title):
        return next(row[1:] for row in self.rows if row[0] == title)


def read(folder):
    html = (folder / "report.html").read_text()
    return html, Page(html)


def test_one_run(root, tmp_path):
    config = "dataloader: {train: {total_batch_size: 4}}\ntrain: {max_iter: 50}\n"
    folder = write_run(tmp_path / "steady", **RUNS["steady"], config=config)
    answer = subprocess.run(
        [sys.executable, "-m", "d2_regnet", "report", str(folder)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(root), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    html, page = read(folder / "report")
    assert page.values("steps") == ["20 of 50"]
    assert page.values("Box AP") == ["30.0"]
    assert page.values("Box AP50") == ["45.0"]
    assert page.values("Box APl") == ["n/a"]
    assert page.values("last total loss") == ["1.25"]
    assert page.values("median s/step") == ["0.5"]
    assert page.values("images/s") == ["8"]
    assert page.values("share waiting for data") == ["20%"]
    assert page.values("peak GPU memory, MiB") == ["n/a"]
    classes = [row[0] for row in page.rows].index("class")
    assert page.rows[classes + 1 :][:3] == [["dog", "32.0"], ["cat", "31.0"], ["ox", "3.2"]]
    assert "1 line(s) of metrics.json could not be read" in page.text
    assert "not that of a model with a published AP" in page.text
    assert "neither drawn images nor an evaluation" in page.text
    assert "No GPU memory was recorded" in page.text
    curves = {file.name for file in (folder / "report").glob("*.png")}
    assert curves == {
        *("total_loss.png", "loss_cls.png", "learning_rate.png", "box_ap.png"),
        *("time_of_a_step.png", "time_waiting_for_data.png"),
    }
    for name in curves:
        with Image.open(folder / "report" / name) as image:
            assert len(image.convert("L").getcolors(256)) > 10, f"{name} is blank"
    assert html.count("data:image/png;base64,") == len(curves)
    assert {file.suffix for file in (folder / "report").iterdir()} == {".png", ".html"}


def test_several_runs_side_by_side_with_a_model(report, tmp_path):
    for name, numbers in RUNS.items():
        lr = 0.02 if name == "steady" else 0.01
        write_run(tmp_path / name, **numbers, config=f"optimizer: {{lr: {lr}, momentum: 0.9}}\n")
    assert report(*RUNS, "--model", "retinanet_regnetx_800mf_fpn_1x", "--output", "both/here") == 0
    _, page = read(tmp_path / "both" / "here")
    assert page.rows[0] == ["", "steady", "quick", "published"]
    assert page.values("Box AP") == ["30.0", "20.5", "35.6"]
    assert page.values("last total loss") == ["1.25", "2.5", ""]
    assert page.values("batch size") == ["n/a", "n/a", ""]
    assert ["optimizer.lr", "0.02", "0.01"] in page.rows
    # The two configs are told from the model's, too; between the runs, momentum is the same.
    assert ["key", "steady", "quick"] in page.rows
    between = page.rows[page.rows.index(["key", "steady", "quick"]) + 1 :]
    assert between == [["optimizer.lr", "0.02", "0.01"]]
    assert "is MMDetection's, on COCO val2017. This run differs from the model" in page.text


def test_nothing_outside_the_page_is_loaded_and_nothing_in_it_runs(report, tmp_path):
    evil = "</pre><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>"
    folder = write_run(tmp_path / "a<b>&$x", 1.0, 10.0, name=evil, config=f"note: '{evil}'\n")
    assert report(folder.name) == 0
    html, page = read(folder / "report")
    assert "script" not in page.tags
    assert evil in page.text
    assert page.values(evil) == ["11.0"]
    for tag, key, value in page.loaded:
        assert (tag, key) in {("a", "href"), ("img", "src")}
        assert value.startswith(("#", "data:image/"))
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    assert "Training report: a<b>&$x" in page.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent"], "absent: there is no such folder"),
        (["empty"], "empty has no metrics.json"),
        (["torn"], "no line holds the metrics of a step (2 broken lines)"),
        (["steady", "steady"], "named twice"),
        (["steady", "absent"], "absent: there is no such folder"),
        (["steady", "--model", "mask_rcnn_regnetx_3.2gf_fpn_9x"], "unknown model"),
        (["steady", "--samples", "0"], "--samples must be at least 1"),
        (["steady", "--samples", "2"], "steady has no config.yaml"),
        (["steady", "--output", "file"], "file is not a folder"),
    ],
)
def test_bad_input(report, tool, tmp_path, refused, arguments, said):
    write_run(tmp_path / "steady", **RUNS["steady"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "metrics.json").write_text('{"iteration": 3, "lo\n\x00\n')
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    assert said in refused(tool.main, *arguments)
    assert sorted(tmp_path.rglob("*")) == before


def test_dry_run_reads_and_writes_nothing(report, tmp_path, capsys):
    folder = write_run(tmp_path / "steady", **RUNS["steady"])
    before = sorted(folder.rglob("*"))
    assert report(folder, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "steady: 20 steps" in out and f"Would write the report to {folder / 'report'}" in out
    assert sorted(folder.rglob("*")) == before
