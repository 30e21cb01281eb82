"""The BPF filesystem that limits are pinned in: there, or to be mounted by the first command, and writable."""

import ctypes
import errno
import os
from pathlib import Path

from chadthrottle.bpf.errors import errno_name
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.finding import Group, Need, Outcome, failed, ok, unknown
from chadthrottle.doctor.kernel_config import about
from chadthrottle.pins.mount import is_bpffs

__all__ = ["BPFFS"]

# The same numbers on every architecture (Linux 5.2); include/uapi/linux/mount.h
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSCONFIG_CMD_CREATE = 6
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1


def _bpffs(context: Context) -> Outcome:
    mount_point = context.base.parent
    try:
        mounted = is_bpffs(mount_point)
    except OSError as error:
        return _no_place(mount_point, error.errno or errno.EIO)
    return _writable(mount_point) if mounted else _mountable(mount_point)


def _writable(mount_point: Path) -> Outcome:
    path = mount_point / f"chadthrottle-doctor-{os.getpid()}"
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        return _refused(mount_point, path, error.errno or errno.EIO)
    path.rmdir()
    return ok(f"{mount_point} is mounted, and can be written")


def _refused(mount_point: Path, path: Path, number: int) -> Outcome:
    causes = {
        errno.EROFS: ("it is mounted read-only", f"sudo mount -o remount,rw {mount_point}"),
        errno.EACCES: ("this user may not write there", f"sudo chmod u+rwx {mount_point}"),
        errno.EPERM: ("a security module refuses it", "sudo journalctl -k -g 'avc|apparmor|denied' -n 20"),
    }
    why, cure = causes.get(number, (os.strerror(number), "Free memory: bpffs is nothing else (free -m)."))
    return failed(
        f"{mount_point} cannot be written: {why}",
        tried=f"mkdir {path}",
        came_back=errno_name(number),
        means="a limit is kept there; without it only --foreground works, which keeps nothing",
        cure=(cure,),
        blocks=frozenset({Need.BPFFS}),
    )


def _no_place(mount_point: Path, number: int) -> Outcome:
    sysfs = mount_point.parent.parent
    missing = not mount_point.parent.is_dir()
    return failed(
        f"there is no {mount_point}",
        tried=f"statfs {mount_point}",
        came_back=errno_name(number),
        means=f"the kernel makes that directory in sysfs: {sysfs} is not mounted or hidden, or it has no bpf(2)",
        cure=(
            f"sudo mount -t sysfs sysfs {sysfs}" if missing else f"sudo mkdir {mount_point}",
            "If the kernel itself lacks it, it takes another one. " + about("CONFIG_BPF_SYSCALL"),
        ),
        blocks=frozenset({Need.BPFFS}),
    )


def _mountable(mount_point: Path) -> Outcome:
    try:
        _make_unseen()
    except OSError as error:
        number = error.errno or errno.EIO
        if number == errno.ENOSYS:
            return unknown(
                f"none is mounted on {mount_point}; the first command will try to",
                tried="fsopen(2)",
                came_back="ENOSYS",
                means="whether that will work can be tried in advance on Linux 5.2 and later only",
            )
        return failed(
            f"none is mounted on {mount_point}, and none can be",
            tried="fsopen(2) of bpf",
            came_back=errno_name(number),
            means="limits are kept in a bpffs, which the first command mounts if it is missing",
            cure=(
                f"sudo mount -t bpf bpf {mount_point}",
                "If that is refused, too: the kernel lacks it, or a security module forbids it. "
                + about("CONFIG_BPF_SYSCALL"),
            ),
            blocks=frozenset({Need.BPFFS}),
        )
    return ok(f"none is mounted on {mount_point} yet; the first command will mount it, which works")


def _make_unseen() -> None:
    """A bpffs that is mounted nowhere, and gone at once. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *arguments: object) -> int:
        result = int(libc.syscall(number, *arguments))
        if result < 0:
            failure = ctypes.get_errno()
            raise OSError(failure, os.strerror(failure))
        return result

    context = call(_FSOPEN, b"bpf", _FSOPEN_CLOEXEC)
    try:
        call(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        os.close(call(_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0))
    finally:
        os.close(context)


BPFFS = Check("CT-CGROUP-03", Group.CGROUPS, "the BPF filesystem", _bpffs, frozenset({Need.BPFFS}))
