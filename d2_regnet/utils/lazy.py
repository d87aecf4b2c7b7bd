"""Names that a package offers without importing what defines them until one is asked for."""

import importlib
from collections.abc import Callable, Mapping


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """A module-level `__getattr__` (PEP 562) for a package.

    Args:
        package: the package's `__name__`.
        modules: each name -> the module that defines it, relative to the package: `".conversion"`.
            The name of a submodule goes to the submodule itself: `"model_zoo": ".model_zoo"`.

    Returns:
        The function; it raises AttributeError for any other name.
    """

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(modules[name], package)
        return module if modules[name] == f".{name}" else getattr(module, name)

    return get
