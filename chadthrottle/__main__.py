"""The program as it is started: `chadthrottle`, or `python -m chadthrottle`."""

import gc
import os
import sys

__all__ = ["program"]


def program() -> None:
    """Run the command line and end the process.

    A command takes a tenth of a second, a fifth of which would be the collector looking at what imports
    have made, and the interpreter taking itself apart (benchmarks/throttle_cost.py --only timing).
    """
    gc.set_threshold(50_000)
    from chadthrottle.cli import main

    status = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # whoever read it has gone: `list | head -1`
        status = status or 1
    os._exit(status)


if __name__ == "__main__":
    program()
