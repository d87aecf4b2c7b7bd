#!/usr/bin/env python
"""Converts a RegNet classifier of pycls (.pyth) to a backbone that Detectron2 loads."""

import warnings

if __name__ == "__main__":
    # Deprecations that importing Detectron2 sets off and its user can do nothing about.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

from d2_regnet.checkpoint.command import main

if __name__ == "__main__":
    main(__doc__, source="pycls")
