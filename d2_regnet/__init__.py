"""RegNet for Detectron2: backbones, recipes, converters and commands.

The names below load when they are first used: `import d2_regnet` itself loads neither torch nor
Detectron2, and touches no file and no network. The backbone builders and the ``regnet://`` paths
are registered with Detectron2 as soon as that is loaded.
"""

from importlib.util import find_spec

from ._register import register
from .utils.lazy import lazy_names

if find_spec("detectron2") is None:
    raise ImportError(
        "d2_regnet extends Detectron2, which is not installed (or not for this Python). Build it "
        "with `pip install --no-build-isolation "
        "git+https://github.com/facebookresearch/detectron2.git` after installing torch, or use "
        "`make setup` in a checkout of d2_regnet."
    )

__version__ = "0.1.0"
_NAMES = {
    "Predictor": ".inference",
    "RegNetArch": ".archs",
    "add_regnet_config": ".config",
    "build_regnet": ".modeling",
    "get_arch": ".archs",
    "list_archs": ".archs",
    "optimize_for_inference": ".inference",
}
_ROOMS = ("archs", "checkpoint", "config", "evaluation", "inference", "model_zoo", "modeling")
__all__ = [*_NAMES, "model_zoo"]

__getattr__ = lazy_names(__name__, _NAMES | {room: f".{room}" for room in _ROOMS})
register()


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
