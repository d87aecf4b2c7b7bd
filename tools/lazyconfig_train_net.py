#!/usr/bin/env python
"""Trains or evaluates a LazyConfig, with Detectron2's own flags; see docs/TRAINING.md."""

from d2_regnet.engine.command import main

if __name__ == "__main__":
    main()
