"""RegNet for Detectron2: backbones, recipes, converters and tools.

Importing the package registers its backbone builders and ``regnet://`` paths with Detectron2, and
touches no file and no network.
"""

import warnings

try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "d2_regnet extends Detectron2, which is not installed (or not for this Python). Build it "
        "with `pip install --no-build-isolation "
        "git+https://github.com/facebookresearch/detectron2.git` after installing torch, or use "
        "`make setup` in a checkout of d2_regnet."
    ) from error

with warnings.catch_warnings():
    # Deprecations that importing Detectron2 sets off and its user can do nothing about.
    warnings.filterwarnings("ignore", category=FutureWarning)
    from d2_regnet import paths  # noqa: F401  registers regnet://
    from d2_regnet.archs import RegNetArch, get_arch, list_archs
    from d2_regnet.config import add_regnet_config
    from d2_regnet.modeling import build_regnet
    from d2_regnet.optimize import optimize_for_inference

__version__ = "0.1.0"
__all__ = [
    "RegNetArch",
    "add_regnet_config",
    "build_regnet",
    "get_arch",
    "list_archs",
    "optimize_for_inference",
]
