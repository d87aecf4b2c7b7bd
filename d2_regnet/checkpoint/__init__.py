"""Checkpoints of any published RegNet, for Detectron2.

`convert` makes one of a file of another project; `read` opens any without running code from it;
`catalog` knows the published ones, wherever Detectron2 takes a path.
"""

from d2_regnet.utils.lazy import lazy_names

_NAMES = {
    "SOURCES": ".conversion",
    "Checkpoint": ".reading",
    "Fit": ".fitting",
    "Report": ".conversion",
    "SafeCheckpointer": ".loading",
    "catalog": ".catalog",
    "convert": ".conversion",
    "load_fitting": ".fitting",
    "read": ".reading",
}
__all__ = [*_NAMES]
# Lazily: Detectron2's paths ask for `catalog` alone, before its models are loaded.
__getattr__ = lazy_names(__name__, _NAMES)
