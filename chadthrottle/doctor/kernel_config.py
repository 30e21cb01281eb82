"""The kernel's release, build configuration, and BTF.

What is not set is no fault by itself: distributions build things in other ways, and what was tried is what counts. The
check that fails because of it says so with `about`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from chadthrottle.bpf.cgroupfs import mounts
from chadthrottle.bpf.constants import BtfKind
from chadthrottle.bpf.errors import BpfError, ObjectFormatError, errno_name
from chadthrottle.bpf.kconfig import Kconfig, running_kconfig
from chadthrottle.bpf.kernel_btf import VMLINUX, vmlinux
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.finding import Group, Need, Outcome, failed, ok, unknown
from chadthrottle.errors import ChadthrottleError, KernelCannotError

__all__ = ["BTF", "CONFIGURATION", "NO_BTF", "OPTIONS", "RELEASE", "about", "missing"]

NO_BTF = "CT-SYS-03"

OPTIONS = (
    "CONFIG_BPF",
    "CONFIG_BPF_SYSCALL",
    "CONFIG_CGROUP_BPF",
    "CONFIG_BPF_JIT",
    "CONFIG_DEBUG_INFO_BTF",
    "CONFIG_NET_CLS_BPF",
    "CONFIG_NET_SCH_HTB",
    "CONFIG_IFB",
    "CONFIG_NET_SCH_INGRESS",
    "CONFIG_CGROUP_NET_CLASSID",
)
# Nothing of ours needs it; whether it is there explains what CT-SYS-06 says.
_ASIDE = ("CONFIG_CGROUP_NET_CLASSID",)


def about(option: str) -> str:
    """A sentence for the check that fails without `option`: what this kernel's configuration says of it."""
    try:
        config = running_kconfig()
    except KernelCannotError as error:
        return f"Whether {option} is set cannot be told: {error.message}."
    if config.text is None:
        return f"Whether {option} is set cannot be told: there is no {config.where}."
    value = config.option(option)
    return f"{option} is not set in {config.where}." if value is None else f"{option}={value} in {config.where}."


def missing(config: Kconfig) -> list[str]:
    """Which of OPTIONS are not set."""
    return [name for name in OPTIONS if config.option(name) not in ("y", "m")]


def _release(_context: Context) -> Outcome:
    about_it = os.uname()
    return ok(f"{about_it.release}, {about_it.machine}", details=(about_it.version,))


def _configuration(_context: Context) -> Outcome:
    try:
        config = running_kconfig()
    except KernelCannotError as error:
        return unknown(error.message, means="what is built in shows only by trying")
    if config.text is None:
        return unknown(
            "this machine shows no configuration",
            tried=config.where,
            came_back="ENOENT",
            means="what is built in shows only by trying, which the other checks do",
        )
    lines = tuple(f"{name}={config.option(name) or ' is not set'}".replace("= ", " ") for name in OPTIONS)
    lacking = missing(config)
    if not lacking:
        return ok(f"all {len(OPTIONS)} options that matter are set in {config.where}", details=lines)
    wanted = [name for name in lacking if name not in _ASIDE]
    if not wanted:
        return ok(f"all that limits take is set in {config.where}", details=lines)
    return ok(
        f"not set in {config.where}: {', '.join(wanted)}; whether that matters, the checks that try it say",
        details=lines,
    )


def _btf(_context: Context) -> Outcome:
    try:
        btf = vmlinux()
        known = btf.find(BtfKind.BTF_KIND_STRUCT, "task_struct")
    except (BpfError, ObjectFormatError, ChadthrottleError, OSError) as error:
        return _no_btf(error)
    if known is None:
        return _no_btf(ObjectFormatError(f"{VMLINUX}: no struct task_struct in it"))
    return ok(f"{VMLINUX} is there and can be read", details=(f"struct task_struct is type {known}",))


def _no_btf(error: Exception) -> Outcome:
    gone = not VMLINUX.exists()
    came_back = errno_name(error.errno or 0) if isinstance(error, OSError) else "ENOENT" if gone else str(error)
    return failed(
        f"there is no {VMLINUX}" if gone else f"{VMLINUX} cannot be used",
        tried=f"reading {VMLINUX} and finding struct task_struct in it",
        came_back=came_back,
        means="without it the kernel cannot fit our programs to itself (CO-RE), nor attach them to forks and exits",
        cure=tuple(_cure_of_btf(gone=gone)),
        blocks=frozenset({Need.OUR_OBJECTS}),
    )


def _cure_of_btf(*, gone: bool) -> Iterator[str]:
    covered = [mount.mount_point for mount in mounts() if mount.mount_point in (VMLINUX, VMLINUX.parent)]
    if covered:
        yield from (f"sudo umount {each}" for each in reversed(covered))
    elif not Path("/sys/kernel").exists():
        yield "sudo mount -t sysfs sysfs /sys"
    elif gone:
        yield "It takes a kernel built with CONFIG_DEBUG_INFO_BTF=y, as those of current distributions are."
        yield about("CONFIG_DEBUG_INFO_BTF")
    else:
        yield "The kernel's own copy is damaged: reinstall the kernel's package, and reboot."


RELEASE = Check("CT-SYS-01", Group.SYSTEM, "kernel", _release)
CONFIGURATION = Check("CT-SYS-02", Group.SYSTEM, "kernel configuration", _configuration)
BTF = Check(NO_BTF, Group.SYSTEM, "the kernel's type information (BTF)", _btf)
