"""Where the demo happens: a cgroup of its own, and a mount namespace with a bpffs of its own."""

import ctypes
import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chadthrottle.bpf.cgroupfs import cgroup2_mounts, mounts
from chadthrottle.errors import KernelCannotError, NotPermittedError
from tools.demo.errors import DemoError, checked

__all__ = ["CGROUP_PREFIX", "cgroup2_root", "made_cgroup", "private_bpffs", "remove_leftovers"]

CGROUP_PREFIX = "chadthrottle-demo-"
BPFFS = Path("/sys/fs/bpf")

# include/uapi/linux/sched.h, include/uapi/linux/mount.h, include/linux/fs.h
CLONE_NEWNS = 0x0002_0000
MS_REC = 0x4000
MS_PRIVATE = 0x4_0000
MNT_DETACH = 2


@contextmanager
def private_bpffs() -> Iterator[None]:
    """An empty bpffs on /sys/fs/bpf that nobody else sees, for this process and its children; not undone but
    for the bpffs: this process stays in the new mount namespace.

    chadthrottle keeps its pins where pid 1 sees them. Something over /proc/1 tells its commands, in here, that
    pid 1 sees what they see.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        checked("unshare", libc.unshare(CLONE_NEWNS))
        _keep_mounts_private(libc)
        _mount(libc, "chadthrottle-demo", "/proc/1", "tmpfs")
        Path("/proc/1/root").symlink_to("/")
        _mount(libc, "chadthrottle-demo", str(BPFFS), "bpf")
    except PermissionError as error:
        hint = "In a container? The demo needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF."
        raise NotPermittedError(str(error.strerror), hint=hint) from error
    except OSError as error:
        raise KernelCannotError(str(error.strerror)) from error
    try:
        yield
    finally:
        # With the filesystem go its pins, with them the links.
        checked("umount", libc.umount2(os.fsencode(BPFFS), MNT_DETACH))


def _keep_mounts_private(libc: ctypes.CDLL) -> None:
    """What is mounted from here on shows in no other namespace."""
    try:
        _mount(libc, "none", "/", None, MS_REC | MS_PRIVATE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # In a chroot, "/" may be no mount itself: then each of the mounts that are seen from it.
        for mount in mounts():
            _mount(libc, "none", str(mount.mount_point), None, MS_PRIVATE)


def _mount(libc: ctypes.CDLL, source: str, target: str, kind: str | None, flags: int = 0) -> None:
    filesystem = None if kind is None else kind.encode()
    checked(f"mount on {target}", libc.mount(source.encode(), target.encode(), filesystem, ctypes.c_ulong(flags), None))


def cgroup2_root() -> Path:
    """Where the cgroup2 hierarchy is mounted, wherever that is on this machine."""
    root = next((mount.mount_point for mount in cgroup2_mounts()), None)
    if root is None:
        raise KernelCannotError("no cgroup2 is mounted here.", hint="Try: mount -t cgroup2 none /mnt")
    return root


@contextmanager
def made_cgroup(path: Path) -> Iterator[Path]:
    """A new cgroup, to be empty when the block ends."""
    try:
        path.mkdir()
    except OSError as error:
        hint = "In a container, cgroup2 may be read-only: try outside."
        raise KernelCannotError(f"cannot make the cgroup {path}: {error.strerror}", hint=hint) from error
    try:
        yield path
    finally:
        _remove(path)


def remove_leftovers(root: Path) -> list[str]:
    """Remove the cgroups of earlier runs that were killed: named like ours, after a process that is gone."""
    removed = []
    for path in sorted(root.glob(f"{CGROUP_PREFIX}*")):
        pid = path.name.removeprefix(CGROUP_PREFIX)
        if pid == str(os.getpid()) or (pid.isdecimal() and not Path(f"/proc/{pid}").exists()):
            _remove(path)
            removed.append(path.name)
    return removed


def _remove(path: Path) -> None:
    """Remove an empty cgroup. Raises DemoError."""
    deadline = time.monotonic() + 2
    while True:
        try:
            path.rmdir()
        except OSError as error:
            # A process that has just ended may still be in it.
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise DemoError(f"cannot remove the cgroup {path}: {error.strerror}") from error
            time.sleep(0.01)
        else:
            return
