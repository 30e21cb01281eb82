"""The program as it is started: `chadthrottle`, or `python -m chadthrottle`."""

import gc
import io
import os
import sys

__all__ = ["program"]


def program() -> None:
    """Run the command line and end the process.

    A command takes a tenth of a second, a fifth of which would be the collector looking at what imports
    have made, and the interpreter taking itself apart (benchmarks/throttle_cost.py --only timing).
    """
    gc.set_threshold(50_000)
    _open_what_is_closed()
    _write_what_the_terminal_has()
    from chadthrottle.cli import main

    status = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # whoever read it has gone, `list | head -1`, or the disk is full
        status = status or 1
    os._exit(status)


def _open_what_is_closed() -> None:
    """Started with `>&-`, or by a daemon that closed everything: 0, 1 and 2 would be the next maps and programs.

    open(2) gives the lowest number that is free, so in this order each gets its own.
    """
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _write_what_the_terminal_has() -> None:
    """Help and names hold letters that ISO 8859-1 lacks: better another letter than no answer."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    program()
