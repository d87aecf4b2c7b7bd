"""The documentation's links lead somewhere; its commands and their flags exist."""

import contextlib
import functools
import importlib.util
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import d2_regnet.commands

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_BLOCK = re.compile(r"^```(?:bash|sh|shell|console)?\n(.*?)^```$|((?:^    \$ .*\n)+)", re.M | re.S)
_COMMAND = re.compile(
    r"^(?:.* -m )?(d2[-_]regnet .*)|^python -m ((?:benchmarks|tests)\b.*)"
    r"|^(?:python|torchrun) (\S+/\S+\.py.*)"
)
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]*)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.M)


def commands(page: Path) -> list[list[str]]:
    """The words of every command of this project in a page's blocks: its name and arguments."""
    found = []
    for block, indented in _BLOCK.findall(page.read_text()):
        text = re.sub(r"\\\n\s*", " ", block or indented)
        for line in text.splitlines():
            line = line.strip().removeprefix("$ ")
            if match := _COMMAND.search(line):
                found.append(shlex.split(match[match.lastindex], comments=True))
    return found


def entry_point(name: str) -> Callable:
    """The `main` of `d2-regnet`, of a package that `python -m` runs, or of a script."""
    if name in ("d2-regnet", "d2_regnet"):
        return d2_regnet.commands.main
    if not name.endswith(".py"):
        try:
            return importlib.import_module(f"{name}.__main__").main
        except ModuleNotFoundError:
            return importlib.import_module(name).main
    spec = importlib.util.spec_from_file_location(f"docs_{Path(name).stem}", ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@functools.cache
def help_of(*words: str) -> str:
    """What a command, or a part of it, prints for --help."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit) as end:
        entry_point(words[0])([*words[1:], "--help"])
    assert end.value.code == 0
    return text.getvalue()


def anchors(page: Path) -> list[str]:
    """The links to a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(page.read_text())
    return [re.sub(r"[^\w\- ]", "", each.strip().lower()).replace(" ", "-") for each in headings]


def test_the_pages_that_there_must_be():
    names = {page.name for page in PAGES}
    assert names >= {"README.md", "MODEL_ZOO.md", "quickstart.md", "from_mmdetection.md"}
    assert names >= {"convert.md", "train.md", "design.md"}


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
        if words[0].endswith(".py"):
            assert (ROOT / words[0]).is_file(), words
        if words[0].startswith("examples/"):
            continue
        named = 2 if words[0] in ("d2-regnet", "d2_regnet") else 1
        text = help_of(*words[:named])
        if "COMMAND" in text and len(words) > named and not words[named].startswith("-"):
            text = help_of(*words[: named + 1])
        for word in words[named:]:
            if word.startswith("--"):
                assert re.search(rf"{re.escape(word.partition('=')[0])}\b", text), (words, word)


def test_commands_are_found():
    """Or the test above would prove nothing."""
    found = [tuple(words[:2]) for page in PAGES for words in commands(page)]
    assert {("d2-regnet", name) for name in ("train", "predict", "finetune", "export")} <= set(
        found
    )
    assert ("d2_regnet", "train") in found  # under torchrun
    assert any(words[0] == "benchmarks" for words in found)


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/README.md").read_text()
    pages = {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")} - {
        "README.md"
    }
    assert not [name for name in pages if f"({name})" not in index]


@pytest.fixture
def site():
    """docs/site.py, if `make docs` has brought what it imports."""
    pytest.importorskip("griffe")
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "docs" / "site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_parameter_of_the_reference_is_documented(site):
    assert not list(site.faults(ROOT / "docs"))


def test_an_undocumented_parameter_is_found(site, tmp_path):
    (tmp_path / "d2_regnet").mkdir()
    (tmp_path / "d2_regnet" / "__init__.py").touch()
    (tmp_path / "d2_regnet" / "planted.py").write_text(
        'def f(x, y):\n    """Doubles.\n\n    Args:\n        x: pixels.\n    """\n'
        'def g(x, y, z):\n    """Adds `x` and `y`."""\n'
        'def h(x, y):\n    """Adds.\n\n    Args:\n        x, y: pixels.\n    """\n'
        "def _private(x): ...\n"
    )
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "page.md").write_text("::: d2_regnet.planted\n")
    assert list(site.faults(tmp_path, tmp_path)) == [
        ("d2_regnet.planted.f", ["y"]),
        ("d2_regnet.planted.g", ["z"]),
        ("d2_regnet.planted.h", ["x", "y"]),
    ]
