"""From a config's path or name, and overrides, to one complete LazyConfig."""

import dataclasses
import importlib.resources
import inspect
import os
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping

from detectron2.config import LazyConfig
from detectron2.utils.registry import locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from d2_regnet import model_zoo
from d2_regnet.archs import get_arch, is_arch_file, suggest
from d2_regnet.data.registered import register_described
from d2_regnet.recipes import scale_to_batch_size

# Detectron2's `common/train.py`, and below it what this engine adds to it.
TRAIN_DEFAULTS = dict(
    output_dir="./output",
    init_checkpoint="",
    max_iter=90000,
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=5000, max_to_keep=100),
    eval_period=5000,
    log_period=20,
    device="cuda",
    seed=-1,  # below 0: another one each time
    cudnn_benchmark=False,
    amp=dict(enabled=False, precision=None),  # float16 or bfloat16; None: as the device does best
    clip_grad=None,  # dict(max_norm=..., norm_type=...)
    # Steps in a row to leave out (0: stop at the first), batches to save for tools/replay_batch.py.
    non_finite=dict(skip=0, save=3),
    # Evaluate what d2_regnet.optimize_for_inference makes of the model.
    optimize_for_inference=dict(enabled=False, dtype="float32", compile=False),
)
_OPTIONAL_GROUPS = {"train.clip_grad": ("max_norm", "norm_type")}


def load_config(path_or_name: str, overrides: Iterable[str] = ()) -> DictConfig:
    """Reads a LazyConfig, completes its `train` group, applies overrides, scales to the batch size,
    and registers the data sets that it describes under `datasets` (see `register_described`).

    A recipe's learning rate and steps follow a changed `dataloader.train.total_batch_size` (see
    `recipes.scale_to_batch_size`), except for those that are overridden themselves.

    Args:
        path_or_name: a LazyConfig file (.py, or the config.yaml of an earlier run), the run's
            folder, or the name of a row of d2_regnet's or of Detectron2's model zoo.
        overrides: `key=value` in hydra's grammar, as Detectron2 takes them. A key must exist in the
            config or be a parameter of the callable it goes to; `+key=value` adds any other.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: the config fails to run, or an override is malformed, names an unknown key or
            has a value of the wrong kind.
    """
    path = find_config(path_or_name)
    cfg = _run_config(path) if path else model_zoo.get_config(path_or_name)
    if not isinstance(cfg, DictConfig):
        raise ValueError(f"{path}: not a LazyConfig: it holds no named groups")
    if "MODEL" in cfg:
        raise ValueError(
            f"{path}: a yacs config; this tool takes LazyConfigs (.py). Train it with "
            "tools/train_net.py"
        )
    cfg.train = OmegaConf.merge(OmegaConf.create(TRAIN_DEFAULTS), cfg.get("train") or {})
    overrides = list(overrides)
    for override in overrides:
        _apply(cfg, override)
    scale_to_batch_size(cfg)
    cfg = LazyConfig.apply_overrides(cfg, overrides)  # what the user has set is not scaled
    _read_arch(cfg)
    register_described(cfg)
    return cfg


def find_config(path_or_name: str) -> str:
    """The path of a config given by its path, its run's folder, or its name in a model zoo.

    Returns:
        The path; empty for a name of d2_regnet's model zoo that is composed and has no file.

    Raises:
        FileNotFoundError: there is no such file; the message names the nearest.
        ValueError: there is no such row; the message names the nearest.
    """
    if not path_or_name:
        raise FileNotFoundError("no config: name one with --config-file")
    for path in (path_or_name, os.path.join(path_or_name, "config.yaml")):
        if os.path.isfile(path):
            return path
    zoo = importlib.resources.files("detectron2") / "model_zoo" / "configs" / path_or_name
    if zoo.is_file():
        return str(zoo)
    if model_zoo.has_own_arch(path_or_name):
        return ""
    folder = os.path.dirname(path_or_name)
    if os.path.isdir(path_or_name) and path_or_name not in model_zoo.rows():
        raise FileNotFoundError(f"the folder {path_or_name} has no config.yaml, so is no run's")
    if path_or_name.removesuffix(".yaml") in model_zoo.rows() and path_or_name.endswith(".yaml"):
        raise ValueError(
            f"{path_or_name} is a row's yacs form, for tools/train_net.py; this tool takes the row "
            f"as {path_or_name.removesuffix('.yaml')}"
        )
    if path_or_name.endswith((".py", ".yaml", ".yml")) or folder:
        here = sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else []
        hint = nearest(os.path.basename(path_or_name), [f for f in here if f.endswith(".py")])
        raise FileNotFoundError(f"config file {path_or_name} does not exist: {hint}")
    if model_zoo.canonical_name(path_or_name) not in model_zoo.rows():
        return ""
    return model_zoo.get_config_file(path_or_name)


def _run_config(path: str) -> DictConfig:
    """Loads a config file; what goes wrong inside it becomes one line with file and line number."""
    try:
        return LazyConfig.load(path)
    except SyntaxError as error:
        cause = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
        raise ValueError(f"{error.msg}, line {cause.lineno}: {cause.msg}") from error
    except Exception as error:
        # A config is code at module level; the innermost such frame is the user's line.
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.name == "<module>"]
        place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else path
        raise ValueError(f"{place}: {type(error).__name__}: {error}") from error


def _read_arch(cfg: DictConfig) -> None:
    """Puts a RegNet's parameters in the place of their file: a run's config.yaml then holds all."""
    body = OmegaConf.select(cfg, "model.backbone.bottom_up")
    if isinstance(body, DictConfig) and is_arch_file(body.get("arch")):
        body.arch = dataclasses.asdict(get_arch(body.arch))


def _apply(cfg: DictConfig, override: str) -> None:
    """Applies one `key=value` in place, after checking that it means something."""
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


def _check_key(cfg: DictConfig, key: str, value, added: bool) -> None:
    """Refuses a key that nothing reads, and a value of another kind than the one it replaces."""
    node, parent, path = cfg, None, []
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
        if "_target_" in node or "_target_" not in parent:
            raise ValueError(f"override {key}: it is a group; set a key of it: {_names(node)}")
    elif isinstance(node, int | float) and isinstance(value, str) and not value.startswith("${"):
        kind = "true or false" if isinstance(node, bool) else "a number"
        raise ValueError(f"override {key}: must be {kind} (it is {node}), not {value!r}")


def _child(node: DictConfig, key: str):
    """node[key], or None where that is missing or refers to something missing."""
    try:
        return node.get(key)
    except OmegaConfBaseException:
        return None


def nearest(name: str, known: Collection[str]) -> str:
    """`suggest`, but of many unlike names only their number."""
    hint = suggest(name, known)
    if hint.startswith("the nearest") or 0 < len(known) <= 10:
        return hint
    return f"there are {len(known)} there, none like it" if known else "there is none like it"


def _names(node: DictConfig) -> str:
    return ", ".join(str(key) for key in node if key != "_target_")


def _takes(node: DictConfig, name: str) -> bool:
    target = _child(node, "_target_")
    if target is None:
        return False
    accepted = parameters(target)
    return accepted is None or name in accepted


def parameters(target) -> set[str] | None:
    """The names of the keyword parameters that a LazyConfig's `_target_` accepts.

    A class that passes `**kwargs` on accepts its bases' parameters as well.

    Args:
        target: a callable, or its dotted name.

    Returns:
        The names; None where that cannot be known, or any name is accepted.
    """
    if isinstance(target, str):
        target = locate(target)
    if inspect.isclass(target):
        functions = [c.__init__ for c in inspect.getmro(target) if "__init__" in vars(c)]
    else:
        functions = [target]
    names = set()
    for function in functions:
        try:
            found = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return None
        names |= {p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in found):
            return names - {"self"}
    return None


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
