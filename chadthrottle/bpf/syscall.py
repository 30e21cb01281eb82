"""The one choke point for bpf(2): every command of the runtime passes through `bpf`."""

import ctypes
import errno
import os
import struct
import sys
import time
from collections.abc import Callable
from functools import cache

from chadthrottle.bpf.constants import BpfCmd
from chadthrottle.bpf.errors import BpfError, NotSupportedError, errno_name

__all__ = ["bpf", "bpf_errno", "describe_permission"]

trace: Callable[[str], None] | None = None
"""Set to see every call as a line. No logging module: importing it costs more than a whole load."""

# __NR_bpf from each architecture's syscall table; Python has no syscall number module.
_NR_BPF = {
    "x86_64": 321,
    "i386": 357,
    "i686": 357,
    "aarch64": 280,
    "armv7l": 386,
    "armv6l": 386,
    "ppc64le": 361,
    "riscv64": 280,
    "riscv32": 280,
    "loongarch64": 280,
}

# include/uapi/linux/capability.h
CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21
CAP_PERFMON = 38
CAP_BPF = 39


def _syscall_number() -> int:
    machine = os.uname().machine
    # A 32-bit interpreter on a 64-bit kernel makes 32-bit system calls.
    if struct.calcsize("P") == 4:
        machine = {"x86_64": "i686", "aarch64": "armv7l"}.get(machine, machine)
    try:
        return _NR_BPF[machine]
    except KeyError:
        raise NotSupportedError(
            f"bpf(2) from chadthrottle on {machine}",
            "3.18",
            hint="Add the architecture's __NR_bpf to chadthrottle/bpf/syscall.py.",
        ) from None


@cache
def _resolve() -> Callable[[int, ctypes.Structure, int], int]:
    if sys.byteorder != "little":
        raise NotSupportedError("big-endian machines (chadthrottle's objects are little-endian)", "3.18")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    number = ctypes.c_long(_syscall_number())

    def call(command: int, attribute: ctypes.Structure, size: int) -> int:
        return int(libc.syscall(number, ctypes.c_int(command), ctypes.byref(attribute), ctypes.c_uint(size)))

    return call


def bpf_errno(command: BpfCmd, attribute: ctypes.Structure) -> tuple[int, int]:
    """bpf(2) itself: (result, 0) or (-1, errno). Repeats the call after EINTR and nothing else."""
    call = _resolve()
    while True:
        started = time.perf_counter_ns()
        result = call(command, attribute, ctypes.sizeof(attribute))
        number = 0 if result >= 0 else ctypes.get_errno()
        if trace is not None:
            took_us = (time.perf_counter_ns() - started) // 1000
            trace(f"bpf({command.name}) = {result if result >= 0 else errno_name(number)}, {took_us} us")
        if number != errno.EINTR:
            return result, number


def bpf(command: BpfCmd, attribute: ctypes.Structure, what: str = "") -> int:
    """Run a command; a descriptor or 0 comes back.

    `what` names the object for the message ("map rules"). Raises BpfError, whose `exit_code` is 3
    and whose hint names the capability when EPERM comes from lacking one.
    """
    result, number = bpf_errno(command, attribute)
    if number == 0:
        return result
    raise failure(command.name, number, what)


def failure(command: str, number: int, what: str = "", hint: str | None = None) -> BpfError:
    """The BpfError for a refused command."""
    message = f"{command} {what}".rstrip() + f": {errno_name(number)} ({os.strerror(number)})"
    error = BpfError(command, number, message, hint=hint)
    if number in (errno.EPERM, errno.EACCES):
        missing = describe_permission()
        if missing is not None:
            error.exit_code = 3
            error.hint = missing
    elif number == errno.ENOSYS:
        error.hint = "This kernel was built without CONFIG_BPF_SYSCALL, or seccomp hides bpf(2)."
    return error


def describe_permission() -> str | None:
    """Why bpf(2) may answer EPERM for this process: the capabilities it lacks, or None.

    CAP_BPF stands beside CAP_SYS_ADMIN since Linux 5.8; networking programs and cgroup hooks want
    CAP_NET_ADMIN, tracing programs CAP_PERFMON.
    """
    effective = _effective_capabilities()
    if effective & (1 << CAP_SYS_ADMIN):
        return None
    wanted = {"CAP_BPF": CAP_BPF, "CAP_NET_ADMIN": CAP_NET_ADMIN, "CAP_PERFMON": CAP_PERFMON}
    missing = [name for name, bit in wanted.items() if not effective & (1 << bit)]
    if not missing:
        return None
    return f"This process lacks {', '.join(missing)}: run it with sudo."


def _effective_capabilities() -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0
