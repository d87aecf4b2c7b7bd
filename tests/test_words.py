"""Words that readers stumble over stay out of the docs, the help texts and the package."""

import ast
import contextlib
import importlib
import io
import re
from pathlib import Path

import pytest

from d2_regnet.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    page
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/**/*.md")
    for page in ROOT.glob(pattern)
)
MODULES = sorted((ROOT / "d2_regnet").rglob("*.py"))
# What not to write -> what to write.
WORDS = {
    r"pictures?": "image",
    r"one's own": "your own",
    r"(of|for) one's": "your",
    r"gone on with": "resumed, continued",
    r"(go|goes|going|went) on (with|from|where|at)": "resume, continue",
    r"take[sn]? up": "resume",
    r"has not\b(?! been)(?! \w+ed)": "does not have",
    r"(is|are) no run's": "is not a run's folder",
    r"than which": "(say it in two sentences)",
    r"where not given": "default: ...",
    r"where (there is|there are) none": "if there is none",
    r"there is no such file of weights": "there is no such file",
    r"files? of weights": "checkpoint, weights",
    r"(is|are) the end": "raises, refuses",
    r"such as it is": "as it is",
    r"learnt anew": "starts at random",
    r"other ones than": "other than",
    r"a mistyped rate": "a mistyped learning rate",
    r"the body's?": "the backbone",
    r"unknown row": "unknown model",
    r"(a|the|published|MMDetection) row's": "a model's, a config's",
    r"(?<!there )is no (checkpoint|object|image|video|list|number of)": "is not a",
    r"(?<!there )is no (size|saved|YAML|JSON|PNG|JPEG)": "is not a",
    r"(None|empty|NaN|null) where": "None if",
    r"in the place of": "in place of",
    r"with none there": "if there is none",
    r"without being asked": "by itself",
}
_WORDS = {re.compile(rf"\b{word}(?!\w)", re.I): instead for word, instead in WORDS.items()}


def found(text: str) -> list[str]:
    """Each unwanted wording in a text, with its line and what to write."""
    return [
        f"line {text[: match.start()].count(chr(10)) + 1}: {match[0]!r}: write {instead!r}"
        for words, instead in _WORDS.items()
        for match in words.finditer(text)
    ]


def strings(module: Path) -> list[tuple[int, str]]:
    """The string literals and docstrings of a module, with their lines."""
    return [
        (node.lineno, node.value)
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_unwanted_words_are_found():
    """Or the tests below would prove nothing."""
    assert found("one\nThe Picture has not the\nkeys") == [
        "line 2: 'Picture': write 'image'",
        "line 2: 'has not': write 'does not have'",
    ]
    assert not found("The training has not ended: everybody resumes it")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages(page):
    text = re.sub(r"^```python\n.*?^```$", "", page.read_text(), flags=re.M | re.S)
    assert not found(text)


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name):
    text = io.StringIO()
    module = importlib.import_module(f"d2_regnet.commands.{name.replace('-', '_')}")
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
        module.main(["--help"])
    assert not found(text.getvalue())


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT)))
def test_package(module):
    assert not [(line, each) for line, text in strings(module) for each in found(text)]
