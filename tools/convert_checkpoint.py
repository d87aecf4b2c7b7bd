#!/usr/bin/env python
"""Converts a RegNet checkpoint of any known source to one that Detectron2 loads."""

from d2_regnet.checkpoint.command import main

if __name__ == "__main__":
    main(__doc__)
