"""The documentation's links lead somewhere; its commands name tools and flags that there are."""

import contextlib
import functools
import importlib.util
import io
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
_BLOCK = re.compile(r"^```(?:bash|sh|shell|console)?\n(.*?)^```$|((?:^    \$ .*\n)+)", re.M | re.S)
_COMMAND = re.compile(r"(?:python3?|torchrun .*?) ((?:tools|examples)/\S+\.py.*)")
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]*)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.M)


def commands(page: Path) -> list[list[str]]:
    """The words of every command of a tool or an example in a page's blocks."""
    found = []
    for block, indented in _BLOCK.findall(page.read_text()):
        text = re.sub(r"\\\n\s*", " ", block or indented)
        for line in text.splitlines():
            line = line.strip().removeprefix("$ ")
            if match := _COMMAND.search(line):
                found.append(shlex.split(match[1], comments=True))
    return found


@functools.cache
def help_of(*words: str) -> str:
    """What a tool, or a command of it, prints for --help."""
    path = ROOT / words[0]
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit) as end:
        module.main([*words[1:], "--help"])
    assert end.value.code == 0
    return text.getvalue()


def anchors(page: Path) -> list[str]:
    """The links to a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(page.read_text())
    return [re.sub(r"[^\w\- ]", "", each.strip().lower()).replace(" ", "-") for each in headings]


def test_the_pages_that_there_must_be():
    names = {page.name for page in PAGES}
    assert names >= {"README.md", "MODEL_ZOO.md", "QUICKSTART.md", "FROM_MMDETECTION.md"}
    assert names >= {"CONVERTING.md", "TRAINING.md", "DESIGN_SPACE.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    broken = []
    for link in _LINK.findall(page.read_text()):
        file, _, section = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (section and section not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands(page):
    for words in commands(page):
        assert (ROOT / words[0]).is_file(), words
        if words[0].startswith("examples/"):
            continue
        text = help_of(words[0])
        if "COMMAND" in text and len(words) > 1 and not words[1].startswith("-"):
            text = help_of(*words[:2])
        for word in words[1:]:
            if word.startswith("--"):
                assert re.search(rf"{re.escape(word.partition('=')[0])}\b", text), (words, word)


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/README.md").read_text()
    pages = {page.name for page in ROOT.glob("docs/*.md")} - {"README.md"}
    assert not [name for name in pages if f"({name})" not in index]
