#!/usr/bin/env python
"""Trains or evaluates a LazyConfig, with Detectron2's own flags: `d2-regnet train`."""

import sys

from d2_regnet.commands import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
