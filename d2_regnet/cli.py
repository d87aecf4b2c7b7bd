"""What all command-line tools share: how bad input ends them."""

import sys
import traceback
from contextlib import contextmanager

BAD_INPUT = 2


@contextmanager
def bad_input(verbose: bool = False):
    """Ends the program with one clear line and exit code 2 where the user's input is at fault.

    Wrap parsing and validation in it, never the work itself: an error of the work is a defect and
    keeps its traceback (exit code 1).

    Args:
        verbose: print the traceback as well.

    Raises:
        SystemExit: with code 2, in place of the ValueError, OSError or ImportError raised inside.
    """
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        if verbose:
            traceback.print_exc()
        line = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from error
