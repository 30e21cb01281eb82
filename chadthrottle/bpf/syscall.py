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


_Attribute = ctypes.Structure | ctypes.Array[ctypes.c_uint64]

# Commands whose EPERM, where no capability lacks, is somebody's policy and not about a particular object.
_MAKING = ("BPF_PROG_LOAD", "BPF_MAP_CREATE", "BPF_BTF_LOAD")


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
def _resolve() -> Callable[[int, _Attribute, int], int]:
    if sys.byteorder != "little":
        raise NotSupportedError("big-endian machines (chadthrottle's objects are little-endian)", "3.18")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    number = ctypes.c_long(_syscall_number())

    def call(command: int, attribute: _Attribute, size: int) -> int:
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
        missing = describe_permission() or _describe_denial()
        if missing is not None:
            error.exit_code = 3
            error.hint = missing
        elif hint is None and command in _MAKING:
            error.hint = (
                "This process lacks no capability: the kernel's build or a security module refuses it. See `dmesg` "
                "and the audit log."
            )
    elif number == errno.ENOSYS:
        error.hint = "This kernel was built without CONFIG_BPF_SYSCALL, or seccomp hides bpf(2)."
    elif number in (errno.EMFILE, errno.ENFILE):
        error.hint = "Every map and program is an open file: raise the limit with `ulimit -n` (RLIMIT_NOFILE)."
    return error


def describe_permission() -> str | None:
    """Why bpf(2) may answer EPERM for this process: the capabilities it lacks, or None.

    CAP_BPF stands beside CAP_SYS_ADMIN since Linux 5.8; networking programs and cgroup hooks want
    CAP_NET_ADMIN, tracing programs CAP_PERFMON.
    """
    effective = int(_status("CapEff") or "0", 16)
    if effective and not _in_first_user_namespace():
        return (
            "This process has its capabilities in a user namespace only, and bpf(2) asks for the machine's own: run it "
            "outside the container, with sudo."
        )
    if effective & (1 << CAP_SYS_ADMIN):
        return None
    wanted = {"CAP_BPF": CAP_BPF, "CAP_NET_ADMIN": CAP_NET_ADMIN, "CAP_PERFMON": CAP_PERFMON}
    missing = [name for name, bit in wanted.items() if not effective & (1 << bit)]
    if not missing:
        return None
    return f"This process lacks {', '.join(missing)}: run it with sudo."


def _describe_denial() -> str | None:
    """Who keeps this process from bpf(2) altogether; None when nobody does.

    The kernel knows no such command and answers EINVAL, unless a filter answers in its place.
    """
    unknown, nothing = 0x7FFF_FFFF, (ctypes.c_uint64 * 1)()
    _resolve()(unknown, nothing, ctypes.sizeof(nothing))
    if ctypes.get_errno() not in (errno.EPERM, errno.EACCES):
        return None
    if _status("Seccomp") == "2":  # SECCOMP_MODE_FILTER
        return (
            "A seccomp filter denies bpf(2) to this process, whatever it asks: allow it in the container's profile, or "
            "in the service's SystemCallFilter=."
        )
    return "A security module denies bpf(2) to this process, whatever it asks: see the audit log."


def _in_first_user_namespace() -> bool:
    try:
        with open("/proc/self/uid_map", encoding="ascii") as mapping:
            return mapping.read().split() == ["0", "0", "4294967295"]
    except OSError:  # CONFIG_USER_NS=n: there is no other
        return True


def _status(field: str) -> str | None:
    """A field of /proc/self/status (proc_pid_status(5))."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next((line.split()[1] for line in status if line.startswith(f"{field}:")), None)
    except OSError:  # no /proc, or no descriptor left
        return None
