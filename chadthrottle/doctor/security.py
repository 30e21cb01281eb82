"""Who may refuse bpf(2) to a process that lacks nothing: seccomp, security modules, lockdown, a sysctl.

Files alone prove nothing: a filter may let bpf(2) pass. So each command is tried, with arguments that name nothing:
the kernel answers EBADF, EINVAL or EFAULT, and whoever stands in front of it EPERM, EACCES or ENOSYS.
"""

import ctypes
import errno
from collections.abc import Mapping
from pathlib import Path

from chadthrottle.bpf import attr
from chadthrottle.bpf.constants import AttachType, BpfCmd
from chadthrottle.bpf.errors import errno_name
from chadthrottle.bpf.syscall import bpf_errno
from chadthrottle.bpf.trials import BAD_FD
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.consequences import WITHOUT_BPF
from chadthrottle.doctor.finding import Group, Need, Outcome, failed, ok, unknown
from chadthrottle.procs import ancestors

__all__ = ["BPF_LET_THROUGH", "LOCKDOWN", "SECURITY_MODULES", "UNPRIVILEGED_BPF", "chosen", "security_modules"]

_SECURITYFS = Path("/sys/kernel/security")
_MOUNT_SECURITYFS = "sudo mount -t securityfs securityfs /sys/kernel/security"
_REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOSYS)
_FILTERED = "2"  # SECCOMP_MODE_FILTER of include/uapi/linux/seccomp.h


def _attempts() -> Mapping[BpfCmd, ctypes.Structure]:
    """What limits call, with nothing to work on."""
    egress = AttachType.BPF_CGROUP_INET_EGRESS
    return {
        BpfCmd.BPF_MAP_CREATE: attr.MapCreate(),
        BpfCmd.BPF_PROG_LOAD: attr.ProgLoad(),
        BpfCmd.BPF_BTF_LOAD: attr.BtfLoad(),
        BpfCmd.BPF_MAP_LOOKUP_ELEM: attr.MapElem(map_fd=BAD_FD),
        BpfCmd.BPF_MAP_UPDATE_ELEM: attr.MapElem(map_fd=BAD_FD),
        BpfCmd.BPF_PROG_ATTACH: attr.ProgAttach(target_fd=BAD_FD, attach_bpf_fd=BAD_FD, attach_type=egress),
        BpfCmd.BPF_PROG_DETACH: attr.ProgAttach(target_fd=BAD_FD, attach_bpf_fd=BAD_FD, attach_type=egress),
        BpfCmd.BPF_LINK_CREATE: attr.LinkCreate(prog_fd=BAD_FD, target_fd=BAD_FD, attach_type=egress),
        BpfCmd.BPF_PROG_QUERY: attr.ProgQuery(target_fd=BAD_FD, attach_type=egress),
        BpfCmd.BPF_PROG_TEST_RUN: attr.ProgTestRun(prog_fd=BAD_FD),
        BpfCmd.BPF_RAW_TRACEPOINT_OPEN: attr.RawTracepointOpen(prog_fd=BAD_FD),
        BpfCmd.BPF_ITER_CREATE: attr.LinkFd(link_fd=BAD_FD),
    }


def _let_through(_context: Context) -> Outcome:
    denied = {}
    for command, attribute in _attempts().items():
        _, number = bpf_errno(command, attribute)
        if number in _REFUSALS:
            denied[command] = number
    mode = _seccomp("self")
    if not denied:
        filters = "; a seccomp filter is in force, but lets it pass" if mode == _FILTERED else ""
        return ok(f"each of {len(_attempts())} commands reaches the kernel{filters}")
    if mode == _FILTERED and not _kernel_lacks(denied):
        return _by_seccomp(denied)
    if set(denied.values()) == {errno.ENOSYS}:
        return unknown("the kernel itself has no bpf(2)", because="CT-BPF-01")
    return _by_module(denied)


def _kernel_lacks(denied: Mapping[BpfCmd, int]) -> bool:
    """bpf_init() of kernel/bpf/inode.c registers bpffs in every kernel that has the call."""
    if set(denied.values()) != {errno.ENOSYS}:
        return False
    filesystems = Path("/proc/filesystems").read_text(encoding="ascii").split()
    return "bpf" not in filesystems


def _by_seccomp(denied: Mapping[BpfCmd, int]) -> Outcome:
    since = _who_brought_the_filter()
    return failed(
        f"a seccomp filter denies {_named(denied)}{since}",
        tried="each command of bpf(2) that limits take, with arguments that the kernel itself would refuse otherwise",
        came_back=_answers(denied),
        means="the filter was put on this process, or on what it was started from, and answers in the kernel's place; "
        "it cannot be taken off again",
        cure=(
            "Run it from a shell without the filter, outside of the container or service; or have it allow bpf:",
            "  docker run --security-opt seccomp=unconfined …",
            "  systemctl edit SERVICE, and there: SystemCallFilter=bpf",
        ),
        blocks=WITHOUT_BPF,
        permission=True,
    )


def _by_module(denied: Mapping[BpfCmd, int]) -> Outcome:
    modules = security_modules()
    named = f"one of {', '.join(modules)}" if modules else "/sys/kernel/security/lsm does not say which"
    return failed(
        f"a security module denies {_named(denied)}",
        tried="each command of bpf(2) that limits take, with arguments that the kernel itself would refuse otherwise",
        came_back=f"{_answers(denied)}; no seccomp filter is in force, and no capability is missing",
        means=f"a policy says so: {named}",
        cure=(
            "See who it was, and allow it there:",
            "sudo journalctl -k -g 'avc|apparmor|denied' -n 20",
        ),
        blocks=WITHOUT_BPF,
        permission=True,
    )


def _named(denied: Mapping[BpfCmd, int]) -> str:
    if len(denied) == len(_attempts()):
        return "bpf(2) altogether"
    return ", ".join(command.name for command in denied)


def _answers(denied: Mapping[BpfCmd, int]) -> str:
    return ", ".join(sorted({errno_name(number) for number in denied.values()}))


def _who_brought_the_filter() -> str:
    """The oldest ancestor that is under a filter: children inherit it."""
    found = None
    for each in ancestors():
        if _seccomp(str(each.pid)) != _FILTERED:
            break
        found = each
    return "" if found is None else f", in force since PID {found.pid} ({found.name})"


def _seccomp(who: str) -> str | None:
    """The mode, as proc_pid_status(5) has it."""
    try:
        with open(f"/proc/{who}/status", encoding="ascii", errors="replace") as status:
            return next((line.split()[1] for line in status if line.startswith("Seccomp:")), None)
    except OSError:
        return None


def _unprivileged(_context: Context) -> Outcome:
    try:
        value = Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text(encoding="ascii").strip()
    except OSError as error:
        return unknown("kernel.unprivileged_bpf_disabled cannot be read", came_back=errno_name(error.errno or 0))
    meaning = {"0": "users may load some programs", "1": "only root, until reboot", "2": "only root"}
    return ok(f"kernel.unprivileged_bpf_disabled is {value}: {meaning.get(value, 'unknown')}; limits need root anyway")


def _lockdown(_context: Context) -> Outcome:
    """No mode keeps us from anything (tests/vm/test_until_reboot.py); a refused object of ours is CT-OBJ-04's."""
    try:
        text = (_SECURITYFS / "lockdown").read_text(encoding="ascii")
    except OSError as error:
        return _no_securityfs(error, "lockdown")
    meaning = {
        "none": "it is off",
        "integrity": "integrity, which leaves alone what limits do",
        "confidentiality": "confidentiality, which takes helpers away that our programs do not call",
    }
    mode = chosen(text)
    return ok(meaning.get(mode, mode))


def chosen(text: str) -> str:
    """What stands in brackets: `none [integrity] confidentiality`."""
    return next((word.strip("[]") for word in text.split() if word.startswith("[")), text.strip())


def _modules(_context: Context) -> Outcome:
    try:
        modules = (_SECURITYFS / "lsm").read_text(encoding="ascii").strip()
    except OSError as error:
        return _no_securityfs(error, "lsm")
    return ok(modules.replace(",", ", "))


def security_modules() -> list[str]:
    """Those that are in force; none if that cannot be told."""
    try:
        return (_SECURITYFS / "lsm").read_text(encoding="ascii").strip().split(",")
    except OSError:
        return []


def _no_securityfs(error: OSError, name: str) -> Outcome:
    return unknown(
        f"there is no {_SECURITYFS / name}",
        tried=f"reading {_SECURITYFS / name}",
        came_back=errno_name(error.errno or 0),
        means="securityfs is not mounted, or the kernel has no such thing",
        cure=(_MOUNT_SECURITYFS,) if _is_known_to_kernel() and not any(_SECURITYFS.iterdir()) else (),
    )


def _is_known_to_kernel() -> bool:
    try:
        return "securityfs" in Path("/proc/filesystems").read_text(encoding="ascii").split() and _SECURITYFS.is_dir()
    except OSError:
        return False


BPF_LET_THROUGH = Check("CT-PERM-05", Group.PERMISSIONS, "who lets bpf(2) through", _let_through, frozenset({Need.BPF}))
UNPRIVILEGED_BPF = Check("CT-PERM-06", Group.PERMISSIONS, "BPF for users", _unprivileged)
LOCKDOWN = Check("CT-PERM-07", Group.PERMISSIONS, "kernel lockdown", _lockdown)
SECURITY_MODULES = Check("CT-PERM-08", Group.PERMISSIONS, "security modules", _modules)
