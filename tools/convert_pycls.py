#!/usr/bin/env python
"""Converts a RegNet classifier of pycls (.pyth): `d2-regnet convert --source pycls`."""

import sys

from d2_regnet.commands import main

if __name__ == "__main__":
    sys.exit(main(["convert", "--source", "pycls", *sys.argv[1:]]))
