#!/usr/bin/env python
"""Converts a RegNet checkpoint of any known source to one that Detectron2 loads.

See docs/CONVERTING.md.
"""

import sys
from functools import partial

from d2_regnet.checkpoint import command

main = partial(command.main, __doc__)

if __name__ == "__main__":
    sys.exit(main())
