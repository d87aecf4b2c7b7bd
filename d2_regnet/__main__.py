"""`python -m d2_regnet`: the same as the installed command `d2-regnet`."""

import sys

from d2_regnet.commands import main

if __name__ == "__main__":
    sys.exit(main())
