"""OpenMP's threads on a machine that others use too."""

import os


def spin_briefly() -> None:
    """Lets OpenMP's idle threads sleep soon, instead of spinning on a core that others need.

    Only a default: `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` in the environment stay as they are. It
    has an effect before torch is loaded, and in processes started afterwards; see
    docs/guides/install.md.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
