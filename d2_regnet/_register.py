"""Registers d2_regnet with Detectron2 as soon as Detectron2 itself is loaded, and not before.

`import d2_regnet` takes no time: Detectron2 and torch load when they are needed. Yet the names of
`MODEL.BACKBONE.NAME` and the ``regnet://`` paths have to be known wherever Detectron2 looks them
up, even to a program that imports d2_regnet and then calls nothing of it.
"""

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Detectron2's module that keeps a registry -> ours that adds to it when it is imported.
_MODULES = {
    "detectron2.utils.file_io": "d2_regnet.checkpoint.catalog",
    "detectron2.modeling": "d2_regnet.modeling",
}


class _AfterImport(importlib.abc.MetaPathFinder):
    """Imports Detectron2's modules without their deprecations, and ours right after theirs."""

    def __init__(self):
        self.waiting = dict(_MODULES)
        self.found = set()

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] != "detectron2" or fullname in self.found:
            return None
        self.found.add(fullname)  # the search below comes by here again
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_both(module):
            with _without_deprecations():
                execute(module)
            if fullname in self.waiting:
                _import(self.waiting.pop(fullname))

        spec.loader.exec_module = execute_both
        return spec


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Hides what importing Detectron2 sets off, about which its user can do nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def _import(name: str) -> None:
    with _without_deprecations():
        importlib.import_module(name)


def register() -> None:
    """Registers now what Detectron2 has loaded, and the rest when it loads."""
    finder = _AfterImport()
    for theirs, ours in _MODULES.items():
        if theirs in sys.modules:
            del finder.waiting[theirs]
            _import(ours)
    sys.meta_path.insert(0, finder)
