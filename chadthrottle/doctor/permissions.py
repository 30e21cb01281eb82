"""What the caller may do: namespaces, root, capabilities. Who refuses all the same is in security.py."""

import errno
import os
from pathlib import Path

from chadthrottle.bpf import attr
from chadthrottle.bpf.constants import AttachType, BpfCmd
from chadthrottle.bpf.syscall import bpf_errno
from chadthrottle.bpf.trials import BAD_FD
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.consequences import EVERYTHING, WITHOUT_BPF, lack_of_root
from chadthrottle.doctor.finding import Group, Need, Outcome, failed, ok, unknown
from chadthrottle.doctor.security import BPF_LET_THROUGH, LOCKDOWN, SECURITY_MODULES, UNPRIVILEGED_BPF
from chadthrottle.errors import KernelCannotError
from chadthrottle.procs.capabilities import NEEDED, effective, lacking
from chadthrottle.procs.namespaces import require_initial_namespaces

__all__ = ["CHECKS", "NO_ROOT"]

NO_ROOT = "CT-PERM-02"
"""The one cause of all that cannot be told without root."""

# include/linux/proc_ns.h (Linux 3.8): the inode number of the initial user namespace.
PROC_USER_INIT_INO = 0xEFFF_FFFD

_FOR = {
    "CAP_SYS_ADMIN": "network namespaces, mounting bpffs, naming other people's programs",
    "CAP_SYS_PTRACE": "other users' processes and their sockets",
    "CAP_BPF": "maps and programs",
    "CAP_NET_ADMIN": "programs on cgroups, queues and network devices",
    "CAP_PERFMON": "programs on tracepoints and iterators",
}


def _user_namespace(_context: Context) -> Outcome:
    try:
        inode = os.stat("/proc/self/ns/user").st_ino  # noqa: PTH116 # as in procs.namespaces
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return ok("this kernel has none but the machine's own")
        return unknown("/proc is not mounted here", came_back="ENOENT")
    if inode == PROC_USER_INIT_INO:
        return ok("the machine's own")
    mapping = " ".join(Path("/proc/self/uid_map").read_text(encoding="ascii").split())
    return failed(
        f"a user namespace (/proc/self/uid_map: {mapping or 'empty'})",
        tried="stat /proc/self/ns/user",
        came_back=f"user:[{inode}], where the machine's own is user:[{PROC_USER_INIT_INO}]",
        means="root in here is root of this namespace only: bpf(2) answers EPERM, whatever capabilities it shows",
        cure=(
            "Run it outside of the container or of `unshare --user`, as the machine's own root. From here it is:",
            "  nsenter --user=/proc/1/ns/user chadthrottle doctor",
            "which only the machine's own root may; rootless containers cannot limit anything.",
        ),
        blocks=EVERYTHING,
        permission=True,
    )


def _root(context: Context) -> Outcome:
    uid, has = os.geteuid(), effective()
    if uid == 0:
        return ok("yes")
    if has is not None and any(has & 1 << bit for bit in NEEDED.values()):
        return ok(f"no, uid {uid}, but it has capabilities")
    if because := lack_of_root(context):
        return unknown(f"no, uid {uid}; root would not help in here", because=because)
    return failed(
        f"no, uid {uid}",
        tried="geteuid(2), and the capabilities in /proc/self/status",
        came_back=f"uid {uid}, CapEff {has or 0:016x}",
        means="limits are set with BPF, which only root may use; most of what could be wrong only root can see",
        cure=("sudo chadthrottle doctor",) if context.pid is None else (f"sudo chadthrottle doctor {context.pid}",),
        blocks=EVERYTHING,
        permission=True,
    )


def _capabilities(context: Context) -> Outcome:
    has = effective()
    if has is None:
        return unknown("/proc/self/status does not tell", tried="CapEff of /proc/self/status")
    wanting = without(has)
    if not wanting:
        standing_in = [name for name, bit in NEEDED.items() if not has & 1 << bit]
        aside = f"; CAP_SYS_ADMIN stands in for {', '.join(standing_in)}" if standing_in else ""
        return ok(f"all that limits take{aside}", details=(f"CapEff: {has:016x}",))
    if because := lack_of_root(context):
        return unknown(f"without {', '.join(wanting)}", because=because)
    return failed(
        f"{', '.join(wanting)} {'is' if len(wanting) == 1 else 'are'} missing",
        tried="CapEff of /proc/self/status",
        came_back=f"{has:016x}",
        means="; ".join(f"{name} is for {_FOR[name]}" for name in wanting),
        cure=(
            "Run it with sudo, outside of containers and services, or give the one it is in what is missing:",
            f"  docker run {' '.join(f'--cap-add={name}' for name in wanting)} …",
            f"  systemctl edit SERVICE, and there: CapabilityBoundingSet={' '.join(wanting)}",
        ),
        blocks=_lost(wanting),
        permission=True,
    )


def without(has: int) -> list[str]:
    """What lacks in an effective set. Devices and queues ask for CAP_NET_ADMIN itself: there nothing stands in."""
    wanting = lacking(has)
    if "CAP_NET_ADMIN" not in wanting and not has & 1 << NEEDED["CAP_NET_ADMIN"]:
        wanting.append("CAP_NET_ADMIN")
    return wanting


def _lost(wanting: list[str]) -> frozenset[Need]:
    """All of it, unless CAP_SYS_ADMIN is there: it stands in, but for two things."""
    if "CAP_SYS_ADMIN" in wanting:
        return EVERYTHING
    lost: set[Need] = set()
    if "CAP_NET_ADMIN" in wanting:
        lost |= {Need.NETWORK, Need.QUEUE}
        if _queries_are_refused():
            lost |= WITHOUT_BPF
    if "CAP_SYS_PTRACE" in wanting:
        lost |= {Need.TARGET, Need.TARGET_CGROUP}
    return frozenset(lost)


def _queries_are_refused() -> bool:
    """Nor may what is attached be read back: in bpf_prog_query() of Linux 6.1 nothing stands in for CAP_NET_ADMIN."""
    query = attr.ProgQuery(target_fd=BAD_FD, attach_type=AttachType.BPF_CGROUP_INET_EGRESS)
    return bpf_errno(BpfCmd.BPF_PROG_QUERY, query)[1] == errno.EPERM


def _process_numbers(context: Context) -> Outcome:
    del context
    try:
        require_initial_namespaces()
    except KernelCannotError as error:
        head, _, rest = error.message.partition(": ")
        return failed(
            head,
            tried="stat /proc/self/ns/pid and /proc/self/ns/time",
            came_back="other inodes than those of the initial namespaces",
            means=rest or "nothing that is told of a process can be trusted",
            cure=(error.hint or "Run chadthrottle on the host.",),
            blocks=frozenset({Need.PROCESS_NUMBERS, Need.TARGET, Need.TARGET_CGROUP}),
        )
    return ok("the kernel's own")


CHECKS: tuple[Check, ...] = (
    Check("CT-PERM-01", Group.PERMISSIONS, "user namespace", _user_namespace),
    Check(NO_ROOT, Group.PERMISSIONS, "root", _root),
    Check("CT-PERM-03", Group.PERMISSIONS, "capabilities", _capabilities),
    Check("CT-PERM-04", Group.PERMISSIONS, "process numbers", _process_numbers),
    BPF_LET_THROUGH,
    UNPRIVILEGED_BPF,
    LOCKDOWN,
    SECURITY_MODULES,
)
