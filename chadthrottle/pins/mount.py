"""The bpffs that all commands share: /sys/fs/bpf of pid 1.

A pin in a bpffs of somebody's private mount namespace dies with that namespace, and is invisible to the
next command. `ip netns exec`, systemd's PrivateMounts= and unshare -m make one; the first also mounts a
fresh /sys over everybody's bpffs. So the place is always the one that pid 1 sees, reached through the
magic link /proc/1/root when that is not what we see ourselves.

mount(2) is called by ctypes, which bpf(2) needs anyway, not by mount(8): it answers with an errno instead
of prose, and trusts no PATH.
"""

import ctypes
import errno
import fcntl
import os
from pathlib import Path

from chadthrottle.errors import ChadthrottleError, KernelCannotError, NotPermittedError
from chadthrottle.pins.errors import refused

__all__ = ["default_base", "ensure_mounted", "is_bpffs"]

MOUNT_POINT = Path("/sys/fs/bpf")
NAME = "chadthrottle"
PID_1_ROOT = Path("/proc/1/root")

# include/uapi/linux/magic.h
BPF_FS_MAGIC = 0xCAFE4A11
# include/uapi/linux/mount.h
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
# include/uapi/linux/sched.h
CLONE_FS = 0x0000_0200
CLONE_NEWNS = 0x0002_0000


def default_base() -> Path:
    """The directory of our pins, by a path that works from here.

    Raises NotPermittedError when this process may not look at pid 1's mounts.
    """
    return (MOUNT_POINT if _sees_what_pid_1_sees() else _seen_by_pid_1()) / NAME


def is_bpffs(path: Path) -> bool:
    """Whether `path` lies on a bpffs. Raises OSError."""
    # struct statfs begins with f_type, a long; 120 bytes on 64-bit. os.statvfs() leaves it out.
    buffer = (ctypes.c_long * 32)()
    _call("statfs", os.fsencode(path), buffer)
    return buffer[0] & 0xFFFF_FFFF == BPF_FS_MAGIC


def ensure_mounted(mount_point: Path) -> None:
    """Mount a bpffs (0700, as systemd does) on `mount_point` unless there is one.

    Two commands at once mount one: the second waits for the lock of what lies below, and looks again.
    Raises KernelCannotError, NotPermittedError.
    """
    try:
        if is_bpffs(mount_point):
            return
        below = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _no_place(mount_point, error) from error
    try:
        fcntl.flock(below, fcntl.LOCK_EX)
        if not is_bpffs(mount_point):
            _mount(mount_point)
    except OSError as error:
        raise _not_mounted(mount_point, error.errno or errno.EIO) from error
    finally:
        os.close(below)


def _sees_what_pid_1_sees() -> bool:
    """Both paths lead to the same directory of the same mount.

    The mount's number tells, and nothing else does: another namespace and a changed root directory may show
    the same filesystem, but what is mounted on it there, pid 1 does not see.
    """
    try:
        return _mount_id(MOUNT_POINT) == _mount_id(_seen_by_pid_1())
    except PermissionError as error:
        if os.geteuid() == 0:
            # A pid 1 that root may not look at (a Firecracker guest's has more capabilities than root):
            # nothing better is known than what we see ourselves.
            return True
        raise NotPermittedError(
            "pid 1's mounts, where limits are kept, may not be looked at by this user (it takes CAP_SYS_PTRACE)",
            hint="Run it with sudo.",
        ) from error


def _seen_by_pid_1() -> Path:
    return PID_1_ROOT / MOUNT_POINT.relative_to("/")


def _mount_id(path: Path) -> tuple[str, int] | None:
    """Which mount and inode `path` is on; None where there is no such path."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        # proc_pid_fdinfo(5): "mnt_id:" since Linux 3.15; statx(2) would do from 5.8
        about = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii")
        return next(line for line in about.splitlines() if line.startswith("mnt_id:")), os.fstat(fd).st_ino
    finally:
        os.close(fd)


def _mount(mount_point: Path) -> None:
    if not mount_point.is_relative_to(PID_1_ROOT):
        _mount_here(mount_point)
        return
    # mount(2) refuses (EINVAL) a target in a namespace not its own (check_mnt() of fs/namespace.c), so
    # somebody has to enter it. A thread may, alone, once it no longer shares its root directory with the
    # others (mntns_install()); it ends, and this process has not moved.
    import threading

    failures: list[OSError] = []
    thread = threading.Thread(target=_mount_in_namespace_of_pid_1, args=(mount_point, failures))
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _mount_in_namespace_of_pid_1(mount_point: Path, failures: list[OSError]) -> None:
    try:
        namespace = os.open("/proc/1/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        root = os.open(PID_1_ROOT, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _call("unshare", CLONE_FS)
            _call("setns", namespace, CLONE_NEWNS)
            # setns() leads to the namespace's root, and pid 1 may have changed its own (a container by chroot).
            os.fchdir(root)
            os.chroot(".")
        finally:
            os.close(root)
            os.close(namespace)
        _mount_here("/" / mount_point.relative_to(PID_1_ROOT))
    except OSError as error:
        failures.append(error)  # raised again by whoever started this thread


def _mount_here(mount_point: Path) -> None:
    flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _call("mount", b"bpf", os.fsencode(mount_point), b"bpf", flags, b"mode=0700")


def _call(name: str, *arguments: object) -> None:
    """A function of libc that answers 0 or sets errno. Raises OSError."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _no_place(mount_point: Path, error: OSError) -> ChadthrottleError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        # The kernel makes the directory in sysfs (bpf_init() of kernel/bpf/inode.c).
        return KernelCannotError(
            f"there is no {mount_point} to mount bpffs on: /sys is not mounted, or the kernel lacks CONFIG_BPF_SYSCALL",
            hint="sudo mount -t sysfs sysfs /sys",
        )
    return refused("open", mount_point, error.errno or errno.EIO)


def _not_mounted(mount_point: Path, number: int) -> ChadthrottleError:
    if number == errno.ENODEV:
        return KernelCannotError("this kernel has no bpffs to keep limits in: it was built without CONFIG_BPF_SYSCALL")
    return refused("mount of bpffs on", mount_point, number)
