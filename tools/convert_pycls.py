#!/usr/bin/env python
"""Converts a RegNet classifier of pycls (.pyth) to a backbone that Detectron2 loads."""

from d2_regnet.checkpoint.command import main

if __name__ == "__main__":
    main(__doc__, source="pycls")
