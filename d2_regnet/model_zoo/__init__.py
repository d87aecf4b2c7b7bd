"""The published models by name, and any config: as `detectron2.model_zoo` gives Detectron2's own.

`get_config`, `get_config_file`, `get_checkpoint_url` and `get` take the names that `list` gives,
and those that `zoo` explains; `loading` reads configs from files, with overrides.
"""

from .zoo import (
    canonical_name,
    get,
    get_checkpoint_url,
    get_config,
    get_config_file,
    has_own_arch,
    list,
    rows,
)

__all__ = [
    "canonical_name",
    "get",
    "get_checkpoint_url",
    "get_config",
    "get_config_file",
    "has_own_arch",
    "list",
    "rows",
]
