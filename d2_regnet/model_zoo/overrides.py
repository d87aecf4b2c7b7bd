"""`key=value` overrides of a LazyConfig: only keys that something reads, values of their kind."""

from collections.abc import Iterator, Mapping

from detectron2.config import LazyConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from d2_regnet.archs import suggest
from d2_regnet.utils.signatures import parameters

__all__ = ["apply"]

_OPTIONAL_GROUPS = {"train.clip_grad": ("max_norm", "norm_type")}


def apply(cfg: DictConfig, override: str) -> set[str]:
    """Applies one `key=value` in place, after checking that it means something.

    Returns:
        The dotted keys that it sets: one, or each of a mapping's.
    """
    if override.startswith("-"):
        raise ValueError(f"{override}: options go before the first key=value override")
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise ValueError(
            f"override {override!r} is not key=value (quote a value that has special characters "
            "in it: key='\"a=b\"')"
        ) from error
    key = parsed.key_or_group
    if not key or parsed.package is not None:
        raise ValueError(f"override {override!r} is not key=value")
    if parsed.is_delete():
        raise ValueError(f"override {override!r}: a key cannot be deleted; set it to null instead")
    if parsed.is_sweep_override():
        raise ValueError(f"override {override!r} gives several values; write a list as key=[1,2]")
    try:
        _check_key(cfg, key, parsed.value(), added=parsed.is_add() or parsed.is_force_add())
        LazyConfig.apply_overrides(cfg, [override])
    except (OmegaConfBaseException, KeyError, TypeError) as error:
        raise ValueError(f"override {override!r}: {error}") from error
    return set(_leaves(key, parsed.value()))


def _leaves(key: str, value) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield key
        return
    for name, inner in value.items():
        yield from _leaves(f"{key}.{name}", inner)


def _check_key(cfg: DictConfig, key: str, value, added: bool) -> None:
    """Refuses a key that nothing reads, and a value of another kind than the one it replaces."""
    node, parent, path = cfg, cfg, []
    for part in key.split("."):
        where = ".".join(path)
        parent = node
        path.append(part)
        if isinstance(node, ListConfig):
            if not (part.isdecimal() and int(part) < len(node)):
                raise ValueError(
                    f"override {key}: {where} is a list with indices below {len(node)}"
                )
            node = node[int(part)]
        elif isinstance(node, DictConfig):
            if part not in node.keys():  # noqa: SIM118  `in node` is False for a missing value
                if added or _takes(node, part):
                    return
                raise ValueError(f"unknown key {key}: {_what_was_meant(cfg, key, where)}")
            node = _child(node, part)
        elif node is None and where in _OPTIONAL_GROUPS:
            if part not in _OPTIONAL_GROUPS[where]:
                known = [f"{where}.{name}" for name in _OPTIONAL_GROUPS[where]]
                raise ValueError(f"unknown key {key}: {suggest(key, known)}")
            return
        elif node is None and added:
            return
        else:
            raise ValueError(f"unknown key {key}: {where} is a value ({node!r}), not a group")
    if isinstance(value, Mapping):
        if "_target_" not in value and (isinstance(node, DictConfig) or key in _OPTIONAL_GROUPS):
            for name, inner in value.items():
                _check_key(cfg, f"{key}.{name}", inner, added)
    elif isinstance(node, DictConfig) and value is not None:
        # A mapping that is an argument, such as an arch's parameters, may become a name.
        if "_target_" in node or "_target_" not in (parent or {}):
            raise ValueError(f"override {key}: it is a group; set a key of it: {_names(node)}")
    elif isinstance(node, int | float) and isinstance(value, str) and not value.startswith("${"):
        kind = "true or false" if isinstance(node, bool) else "a number"
        raise ValueError(f"override {key}: must be {kind} (it is {node}), not {value!r}")


def _child(node: DictConfig, key: str):
    """node[key], or None if that is missing or refers to something missing."""
    try:
        return node.get(key)
    except OmegaConfBaseException:
        return None


def _names(node: DictConfig) -> str:
    return ", ".join(str(key) for key in node if key != "_target_")


def _takes(node: DictConfig, name: str) -> bool:
    target = _child(node, "_target_")
    if target is None:
        return False
    accepted = parameters(target)
    return accepted is None or name in accepted


def _keys(node, prefix: str = "") -> Iterator[str]:
    """Every dotted key that an override may set."""
    if isinstance(node, DictConfig):
        target = _child(node, "_target_")
        names = set(map(str, node)) | (
            (parameters(target) or set()) if target is not None else set()
        )
        children = {name: _child(node, name) for name in sorted(names - {"_target_"})}
    elif isinstance(node, ListConfig):
        children = {str(i): node[i] for i in range(len(node))}
    else:
        children = {}
    for name, child in children.items():
        yield prefix + name
        yield from _keys(child, f"{prefix}{name}.")


def _what_was_meant(cfg: DictConfig, key: str, where: str) -> str:
    """What the user may have meant: a key of the same last name elsewhere, or one like it."""
    known = list(_keys(cfg))
    last = key.rpartition(".")[2]
    same = [k for k in known if k.rpartition(".")[2] == last]
    if same:
        return f"the nearest are {', '.join(same[:3])}"
    siblings = [k for k in known if k.rpartition(".")[0] == where]
    hint = suggest(key, siblings) if where else suggest(key, known)
    if not hint.startswith("the nearest"):
        hint = f"{where or 'the config'} has {', '.join(k.rpartition('.')[2] for k in siblings)}"
    return f"{hint} (+{key}=... adds a new one)"
