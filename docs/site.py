"""MkDocs hooks: pages of the repository's root join the site; undocumented parameters fail it."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
ROOT_PAGES = ("MODEL_ZOO.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "RELEASING.md")
_LINK = re.compile(r"(?<!!)\[([^\]\n]*)\]\((?!https?:|mailto:|#)([^)\s]+)\)")
_IDENTIFIER = re.compile(r"^::: (\S+)", re.M)
log = logging.getLogger("mkdocs.hooks.d2_regnet")


def on_files(files, config):
    """Adds the pages of the repository's root."""
    for name in ROOT_PAGES:
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to the root's pages lead to their place on the site; those to other files of the
    repository lead to `repo_url`, or are plain text where there is none."""
    uri = page.file.src_uri
    here = PurePosixPath("" if uri in ROOT_PAGES else "docs", uri).parent

    def moved(link: re.Match) -> str:
        text, target = link[1], link[2]
        path, _, section = target.partition("#")
        source = os.path.normpath(here / path)
        on_site = source if source in ROOT_PAGES else source.removeprefix("docs/")
        if files.get_file_from_path(on_site):
            path = os.path.relpath(on_site, PurePosixPath(uri).parent)
            return f"[{text}]({path}{'#' * bool(section)}{section})"
        if not (ROOT / source).exists():
            log.warning("%s: there is no %s", uri, source)
        return f"[{text}]({config.repo_url}blob/main/{source})" if config.repo_url else text

    return _LINK.sub(moved, markdown)


def on_pre_build(config):
    """Warns, which ends a strict build, of every public parameter without a description."""
    for path, missing in faults(Path(config.docs_dir)):
        log.warning("%s: undocumented: %s", path, ", ".join(missing))


def faults(docs: Path, root: Path = ROOT) -> Iterator[tuple[str, list[str]]]:
    """What the reference pages show: each function with parameters that nothing describes."""
    package = griffe.load(
        "d2_regnet", search_paths=[str(root)], try_relative_path=False, docstring_parser="google"
    )
    for page in sorted(docs.glob("reference/*.md")):
        for name in _IDENTIFIER.findall(page.read_text()):
            for function in functions(package[name.partition(".")[2]]):
                if missing := undocumented(function):
                    yield function.path, missing


def functions(found: griffe.Object | griffe.Alias) -> Iterator[griffe.Function]:
    """The public functions of a module or a class, with constructors; what a class inherits from
    another project, and overrides, is documented there."""
    if found.is_alias:
        if not found.target_path.startswith("d2_regnet."):
            return
        found = found.final_target
    if found.is_function:
        yield found
    elif found.is_class or found.is_module:
        foreign = found.is_class and bool(found.bases)
        for member in found.members.values():
            public = (member.is_public and not foreign) or member.name == "__init__"
            if public and not member.is_module:
                yield from functions(member)


def undocumented(function: griffe.Function) -> list[str]:
    """The parameters that a docstring does not name: under "Args", or in a text without that."""
    if function.docstring is None:
        return []
    sections = function.docstring.parse("google", warnings=False)
    arguments = [each for each in sections if each.kind is griffe.DocstringSectionKind.parameters]
    named = {item.name.lstrip("*") for section in arguments for item in section.value}
    if not arguments:
        named = set(re.findall(r"\w+", function.docstring.value))
    parameters = [each.name.lstrip("*") for each in function.parameters]
    return [each for each in parameters if each not in named | {"self", "cls"}]
