"""From your own data set and a trained detector to a detector of its classes.

`prepare` reads, checks and plans, and writes nothing; `run` does what it planned.
"""

from .job import Job, prepare, resumed, run

__all__ = ["Job", "prepare", "resumed", "run"]
