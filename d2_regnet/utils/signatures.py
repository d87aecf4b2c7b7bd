"""What the calls that a LazyConfig describes accept."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf


def target_of(node) -> Callable:
    """What a LazyConfig's node, one with a `_target_`, calls."""
    return locate(node._target_) if isinstance(node._target_, str) else node._target_


def calls(node, target: Callable | None = None) -> Iterator[DictConfig]:
    """All calls that a LazyConfig's node holds, itself included; of `target` where it is given."""
    if isinstance(node, DictConfig):
        if "_target_" in node and target in (None, target_of(node)):
            yield node
        children = [node[key] for key in node if not OmegaConf.is_missing(node, key)]
    else:
        children = list(node) if isinstance(node, ListConfig) else []
    for child in children:
        yield from calls(child, target)


def parameters(target: Callable | str) -> set[str] | None:
    """The names of the keyword parameters that a LazyConfig's `_target_` accepts.

    A class that passes `**kwargs` on accepts its bases' parameters as well.

    Args:
        target: a callable, or its dotted name.

    Returns:
        The names; None if that cannot be known, or any name is accepted.
    """
    names = set()
    for function in _functions(locate(target) if isinstance(target, str) else target):
        try:
            found = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return None
        names |= {p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in found):
            return names - {"self"}
    return None


def default(target: Callable, name: str) -> Any:
    """The default of a parameter, of a class maybe one of its bases'.

    Raises:
        ValueError: there is no such parameter.
    """
    for function in _functions(target):
        parameter = inspect.signature(function).parameters.get(name)
        if parameter is not None:
            return parameter.default
    raise ValueError(f"{getattr(target, '__name__', target)} has no parameter {name}")


def _functions(target: Callable) -> list[Callable]:
    """A function, or the constructors of a class and its bases."""
    if not inspect.isclass(target):
        return [target]
    return [c.__init__ for c in inspect.getmro(target) if "__init__" in vars(c)]
