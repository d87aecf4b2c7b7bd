"""Data: the built-in shapes, whose names are registered on import; no file is touched by that."""

from .shapes import register_shapes

__all__ = ["register_shapes"]

register_shapes()
