"""What the kernel's log says of BPF and cgroups; and the trap of cgroup v1's net_cls and net_prio.

Before Linux 5.15 a socket's one word for its cgroup was either a pointer to it or a classid. The first write to
net_cls.classid or net_prio.ifpriomap anywhere made it the latter, for all sockets to come and until reboot
(cgroup_sk_alloc_disable() of kernel/cgroup/cgroup.c; 8520e224f547 took it away): from then on they count as sockets of
the root.
"""

import ctypes
import re
from pathlib import Path

from chadthrottle.bpf.errors import errno_name
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.consequences import lack_of_root
from chadthrottle.doctor.finding import Group, Outcome, ok, unknown, warning

__all__ = ["LOG", "NET_CLS", "after_the_trap", "in_use", "lines_about", "read_log"]

# include/linux/syslog.h of the kernel; klogctl(3)
_SYSLOG_ACTION_READ_ALL = 3
_SYSLOG_ACTION_SIZE_BUFFER = 10

_SHOWN = 40
_ABOUT = re.compile(r"\b(bpf|btf|cgroups?2?|cgroup2|libbpf|verifier|lockdown)\b", re.IGNORECASE)
_DISABLED = "disabling cgroup2 socket matching"
_LEVEL = re.compile(r"^<\d+>")
_TRAP = "cgroup_sk_alloc_disable"


def lines_about(text: str) -> list[str]:
    """The lines of a kernel log that are about BPF or cgroups, without their levels."""
    return [_LEVEL.sub("", line) for line in text.splitlines() if _ABOUT.search(line)]


def _log(context: Context) -> Outcome:
    try:
        text = read_log()
    except OSError as error:
        return unknown(
            "the kernel log may not be read",
            tried="syslog(2), SYSLOG_ACTION_READ_ALL",
            came_back=errno_name(error.errno or 0),
            means="it takes CAP_SYSLOG where kernel.dmesg_restrict is 1",
            because=lack_of_root(context),
        )
    found = lines_about(text)
    context.shared["kernel_log"] = found
    if not found:
        return ok("nothing about BPF or cgroups")
    return ok(
        f"{len(found)} lines about BPF or cgroups, which --verbose shows",
        details=tuple(found[-_SHOWN:]),
    )


def read_log() -> str:
    """All of it, with levels. Raises OSError (EPERM)."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = libc.klogctl(_SYSLOG_ACTION_SIZE_BUFFER, None, 0)
    if size < 0:
        raise _refused()
    buffer = ctypes.create_string_buffer(size)
    length = libc.klogctl(_SYSLOG_ACTION_READ_ALL, buffer, size)
    if length < 0:
        raise _refused()
    return buffer.raw[:length].decode("utf-8", "replace")


def _refused() -> OSError:
    return OSError(ctypes.get_errno(), "klogctl")


def in_use(cgroups: str) -> list[str]:
    """Which of the two are in a cgroup v1 hierarchy, from the text of /proc/cgroups (cgroups(7))."""
    rows = [line.split() for line in cgroups.splitlines() if not line.startswith("#")]
    return [row[0] for row in rows if len(row) == 4 and row[0] in ("net_cls", "net_prio") and row[1] != "0"]


def _net_cls(context: Context) -> Outcome:
    try:
        mounted = in_use(Path("/proc/cgroups").read_text(encoding="ascii"))
    except FileNotFoundError:
        return ok("this kernel has no cgroup v1")
    except OSError as error:
        return unknown("/proc/cgroups cannot be read", came_back=errno_name(error.errno or 0))
    if not mounted:
        return ok("neither is in use")
    named = " and ".join(mounted)
    if not _has_trap():
        return ok(f"{named} in use, and this kernel keeps them apart from cgroup2 (since 5.15)")
    return after_the_trap(named, context.shared.get("kernel_log"), lack_of_root(context))


def after_the_trap(named: str, log: list[str] | None, because: str) -> Outcome:
    """On a kernel with the trap, where `named` is in a hierarchy: what the log (None: closed to us) says came of it."""
    if log is None:
        return unknown(
            f"{named} in use; whether that has switched cgroup2 off for sockets stands in the log, which is closed",
            because=because,
        )
    said = [line for line in log if _DISABLED in line]
    if not said:
        return ok(f"{named} mounted, but nothing was written there since the log begins")
    return warning(
        f"{named} in use: this kernel has stopped telling cgroup2 which socket is in which cgroup",
        tried="/proc/cgroups, the kernel's symbols, and the kernel log",
        came_back=said[0],
        means="new sockets count as the root's, until reboot: with --at leaf or a path a limit hits nothing",
        cure=(
            "Limit at the root, the default.",
            "Or keep Docker, LXC or /etc/cgconfig.conf from writing net_cls.classid or net_prio.ifpriomap; reboot.",
        ),
        details=tuple(said),
    )


def _has_trap() -> bool:
    with open("/proc/kallsyms", encoding="ascii", errors="replace") as symbols:
        return any(_TRAP in line for line in symbols)


LOG = Check("CT-SYS-07", Group.SYSTEM, "kernel log", _log)
NET_CLS = Check("CT-SYS-06", Group.SYSTEM, "net_cls and net_prio", _net_cls)
