"""Data: the mapper and loader for training, and the built-in shapes.

The shapes' names are registered on import; no file is touched by that.
"""

from .images import read_image
from .loader import build_train_loader
from .mapper import RobustMapper
from .shapes import register_shapes

__all__ = ["RobustMapper", "build_train_loader", "read_image", "register_shapes"]

register_shapes()
