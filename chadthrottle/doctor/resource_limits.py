"""RLIMIT_NOFILE and RLIMIT_MEMLOCK: found too low by opening and making things, not by their numbers."""

import errno
import os
import resource
from contextlib import ExitStack

from chadthrottle.bpf import attr
from chadthrottle.bpf.constants import BpfCmd, MapType
from chadthrottle.bpf.errors import errno_name
from chadthrottle.bpf.memlock import retry_unlocked
from chadthrottle.bpf.syscall import bpf_errno
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.consequences import WITHOUT_BPF
from chadthrottle.doctor.finding import Group, Need, Outcome, failed, ok, unknown

__all__ = ["LOCKED_MEMORY", "OPEN_FILES"]

DESCRIPTORS = 48
"""What the first limit opens at once: 44 besides standard input and output, measured on Linux 6.18."""
ENOUGH = 1024

LOCKED_BYTES = 32 << 20
"""As much as all of our maps and programs are charged, on kernels that do charge."""


def _open_files(context: Context) -> Outcome:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened, number = _open_many(DESCRIPTORS)
    if not number:
        return ok(f"{DESCRIPTORS} more could be opened (RLIMIT_NOFILE is {_told(soft)})")
    blocks = frozenset() if _raised(context, soft, hard) else frozenset(Need) - {Need.CGROUP2}
    wide = number == errno.ENFILE
    return failed(
        f"only {opened} files could be opened, limits need {DESCRIPTORS}",
        tried=f"open /dev/null {DESCRIPTORS} times",
        came_back=f"{errno_name(number)} after {opened}; RLIMIT_NOFILE is {_told(soft)}, at most {_told(hard)}",
        means="every map, program and link is an open file of the command that makes it",
        cure=(
            ("sudo sysctl -w fs.file-max=1000000",)
            if wide
            else (
                "For this shell and what is started from it; then the command again:",
                f"sudo prlimit --pid $$ --nofile={ENOUGH}:{ENOUGH}",
                "For good: LimitNOFILE= of the service it runs in, or /etc/security/limits.conf.",
            )
        ),
        blocks=blocks,
    )


def _told(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


def _open_many(wanted: int) -> tuple[int, int]:
    """How many could be opened, and the errno that ended it."""
    with ExitStack() as stack:
        for opened in range(wanted):
            try:
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                return opened, error.errno or errno.EIO
    return wanted, 0


def _raised(context: Context, soft: int, hard: int) -> bool:
    """For the checks that follow: they are to find out more than that there are too few descriptors."""
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(ENOUGH, hard) if hard >= 0 else ENOUGH, hard))
    except (OSError, ValueError):
        return False
    context.stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    return not _open_many(DESCRIPTORS)[1]


def _locked_memory(_context: Context) -> Outcome:
    from chadthrottle.bpf.features import Support, probe

    charged = probe("memcg_accounting").support
    if charged is Support.SUPPORTED:
        return ok("this kernel does not charge BPF to RLIMIT_MEMLOCK")
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with ExitStack() as stack:
        # Lifted by whoever makes a map, where that is allowed; put back here.
        stack.callback(_put_back, limit)
        number = _make_map(LOCKED_BYTES)
    if number == 0:
        return ok(f"{LOCKED_BYTES >> 20} MiB can be charged to it (RLIMIT_MEMLOCK is {_told(limit[0])})")
    if number != errno.EPERM or charged is Support.INCONCLUSIVE:
        return unknown("a map to try it with was refused", tried="BPF_MAP_CREATE", came_back=errno_name(number))
    return failed(
        "too little memory may be locked",
        tried=f"an array of {LOCKED_BYTES >> 20} MiB, after raising RLIMIT_MEMLOCK as far as allowed",
        came_back=f"EPERM; RLIMIT_MEMLOCK is {_told(limit[0])}, at most {_told(limit[1])}",
        means="kernels before 5.11 charge maps and programs to this limit, and answer EPERM when it is used up",
        cure=("In this shell, and then the command again:", "  ulimit -l unlimited"),
        blocks=WITHOUT_BPF - {Need.BPF},
    )


def _make_map(size_bytes: int) -> int:
    request = attr.MapCreate(
        map_type=MapType.BPF_MAP_TYPE_ARRAY, key_size=4, value_size=4096, max_entries=size_bytes // 4096
    )
    fd, number = retry_unlocked(lambda: bpf_errno(BpfCmd.BPF_MAP_CREATE, request))
    if number == 0:
        os.close(fd)
    return number


def _put_back(limit: tuple[int, int]) -> None:
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, limit)
    except (OSError, ValueError):
        return  # lifted is as good


OPEN_FILES = Check("CT-SYS-04", Group.SYSTEM, "open files", _open_files)
LOCKED_MEMORY = Check("CT-SYS-05", Group.SYSTEM, "locked memory", _locked_memory, frozenset({Need.BPF}))
