#!/usr/bin/env python
"""Converts a RegNet checkpoint of any known source to one that Detectron2 loads.

See docs/CONVERTING.md.
"""

import sys

from d2_regnet.checkpoint import command


def main(argv: list[str] | None = None) -> int:
    return command.main(__doc__, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
