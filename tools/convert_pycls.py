#!/usr/bin/env python
"""Converts a RegNet classifier of pycls (.pyth) to a backbone that Detectron2 loads.

See docs/CONVERTING.md.
"""

import sys
from functools import partial

from d2_regnet.checkpoint import command

main = partial(command.main, __doc__, "pycls")

if __name__ == "__main__":
    sys.exit(main())
