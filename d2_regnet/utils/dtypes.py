"""Precisions by name: as configs and commands call them."""

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_named(name: str) -> torch.dtype:
    """The dtype that a config or a command calls by its name; ValueError if there is none."""
    if name not in DTYPES:
        raise ValueError(f"{name!r} is not a dtype: it is one of {', '.join(DTYPES)}")
    return DTYPES[name]
