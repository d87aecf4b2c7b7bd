"""What is imported only when it is asked for: names of a package, optional dependencies."""

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """A module-level `__getattr__` (PEP 562) for a package.

    Args:
        package: the package's `__name__`.
        modules: each name -> the module that defines it, relative to the package: `".conversion"`.
            The name of a submodule goes to the submodule itself: `"model_zoo": ".model_zoo"`.
    """

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(modules[name], package)
        return module if modules[name] == f".{name}" else getattr(module, name)

    return get


def import_extra(package: str, extra: str) -> ModuleType:
    """An optional dependency; an ImportError says which extra of d2_regnet has it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{package} is not installed: pip install 'd2_regnet[{extra}]'"
        ) from error
