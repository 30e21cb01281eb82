"""Processes as a user names them and as the kernel identifies them.

    stat.py       /proc/PID/stat: identity, alive or not, descendants
    namespaces.py are the numbers seen here the kernel's own?
    resolve.py    the PID argument of a command: a Process, or the reason why not
    names.py      the processes of a name, for a message; the only module that imports psutil

Everything on the way of a command that succeeds reads /proc itself: importing psutil takes as long as
`chadthrottle list` altogether may feel like (23 ms), and what is needed is one line of one file.
"""

from chadthrottle.procs.errors import (
    NoSuchProcessError,
    OwnSessionError,
    ProcessNameError,
    ThreadIdError,
    UntouchableProcessError,
)
from chadthrottle.procs.namespaces import require_initial_namespaces
from chadthrottle.procs.resolve import Process, inspect, open_pidfd, parse_pid, resolve
from chadthrottle.procs.stat import (
    TICK_NS,
    Identity,
    Stat,
    ancestors,
    descendants,
    is_alive,
    read_stat,
    started_at,
)

__all__ = [
    "TICK_NS",
    "Identity",
    "NoSuchProcessError",
    "OwnSessionError",
    "Process",
    "ProcessNameError",
    "Stat",
    "ThreadIdError",
    "UntouchableProcessError",
    "ancestors",
    "descendants",
    "inspect",
    "is_alive",
    "open_pidfd",
    "parse_pid",
    "read_stat",
    "require_initial_namespaces",
    "resolve",
    "started_at",
]
