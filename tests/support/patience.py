"""How much slower than a real machine this one is: an emulated one is slower by a factor of twenty or so."""

import os

TEST_SLOWNESS = "CHADTHROTTLE_TEST_SLOWNESS"
FACTOR = float(os.environ.get(TEST_SLOWNESS, "1"))


def patient(seconds: float) -> float:
    """A time limit, stated for a real machine, for this one."""
    return seconds * FACTOR
