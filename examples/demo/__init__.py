"""`make demo`: a RegNet Mask R-CNN from random weights to drawn predictions, in minutes on a CPU.

`configure` says what is trained, `run` trains, evaluates and draws it.
"""

from .summary import is_complete, report
from .training import check_same_run, configure, discard, make_data, run

__all__ = ["check_same_run", "configure", "discard", "is_complete", "make_data", "report", "run"]
