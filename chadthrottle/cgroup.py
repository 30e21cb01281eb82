"""cgroup2: where its root is, where a process lives in it, and what --at means.

Which packets are limited does not depend on this: it only says where the hooks sit.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

from chadthrottle.bpf.cgroupfs import Mount, cgroup2_mounts, filesystem_type
from chadthrottle.bpf.errors import errno_name
from chadthrottle.errors import KernelCannotError, NotPermittedError, UsageError
from chadthrottle.procs import NoSuchProcessError

__all__ = ["attach_point", "find", "parse_membership", "path_of", "places", "root"]

# The inode of the hierarchy's root in kernfs (fs/kernfs/dir.c allocates numbers in order, from 1). Unlike the
# root field of mountinfo, which reads "/" for a cgroup namespace's own top, it cannot be taken for another.
ROOT_INODE = 1


def places() -> list[Path]:
    """Where cgroup2, or a part of it, is mounted and not hidden. Raises KernelCannotError: nowhere."""
    return [mount.mount_point for mount in _visible_mounts()]


def root() -> Path:
    """The directory of the cgroup2 root, on pure and hybrid hosts alike.

    Raises KernelCannotError (exit 5): none mounted, or none that shows the root (a container).
    """
    mounts = _visible_mounts()
    for mount in mounts:
        if mount.mount_point.stat().st_ino == ROOT_INODE:
            return mount.mount_point
    shown = ", ".join(str(mount.mount_point) for mount in mounts)
    raise KernelCannotError(
        f"the cgroup2 root cannot be seen from here; {shown} shows only a part of the tree (a container?)",
        hint="Run chadthrottle on the host, or with --at leaf, which reaches only sockets made in that cgroup.",
    )


def path_of(pid: int) -> Path:
    """The cgroup2 directory that process `pid` is in now.

    Raises NoSuchProcessError, KernelCannotError (not mounted, or not in the part that is).
    """
    mounts = _visible_mounts()
    inside = _membership(pid)
    for mount in mounts:
        directory = _directory(mount, inside)
        if directory is not None and directory.is_dir():
            return directory
    directory = _search(mounts, pid)
    if directory is not None:
        return directory
    if inside.endswith(" (deleted)"):
        raise NoSuchProcessError(f"the cgroup of process {pid} was removed: the process has ended")
    _membership(pid)  # the likeliest reason: it died meanwhile
    raise KernelCannotError(
        f"the cgroup of process {pid}, {inside}, is not in the part of cgroup2 that is mounted here",
        hint="Run chadthrottle on the host, or with --at root.",
    )


def find(cgroup_id: int) -> Path | None:
    """The directory of the cgroup with this id, which is its inode number (Linux 5.5); None if it is gone.

    Raises KernelCannotError as `root`.
    """
    top = root()
    if top.stat().st_ino == cgroup_id:
        return top
    for directory, names, _ in os.walk(top):
        for name in names:
            path = Path(directory, name)
            with suppress(FileNotFoundError):
                if path.stat().st_ino == cgroup_id:
                    return path
    return None


def attach_point(at: str, pid: int) -> Path:
    """The directory that --at names: "root", "leaf" (the cgroup of `pid`) or a path ("./root" is one, too).

    Raises UsageError for a path that is no cgroup2 directory, NotPermittedError, and as `root`, `path_of`.
    """
    if at == "root":
        return root()
    if at == "leaf":
        return path_of(pid)
    if not at:
        raise UsageError("--at wants root, leaf or the path of a cgroup2 directory")
    path = Path(at)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_open(at, error) from error
    try:
        filesystem = filesystem_type(fd)
    finally:
        os.close(fd)
    if filesystem != "cgroup2":
        what = {"cgroup": "a cgroup v1 directory", None: "on no filesystem seen here"}.get(
            filesystem, f"on {filesystem}"
        )
        raise UsageError(f"--at {at}: not in cgroup2, but {what}; BPF attaches to cgroup2 only", hint=_where_they_are())
    return path.resolve()


def parse_membership(text: str) -> str | None:
    """The path in the line of /proc/PID/cgroup that begins "0::"; None on a kernel without cgroup2.

    The other lines of a hybrid host are cgroup v1. Names cannot hold a newline (cgroup_mkdir()).
    """
    return next((line[3:] for line in text.split("\n") if line.startswith("0::")), None)


def _membership(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NoSuchProcessError(f"there is no process {pid}: never was, or it has ended") from error
    path = parse_membership(text)
    if path is None:
        raise _not_mounted()
    return path


def _directory(mount: Mount, inside: str) -> Path | None:
    """`inside`, which counts from the reader's cgroup namespace as mountinfo's root does, as a directory."""
    top, wanted = PurePosixPath(mount.root), PurePosixPath(inside)
    # "/../x": outside of our namespace, where names above are unknown and ".." cannot be followed in text.
    if ".." in top.parts or ".." in wanted.parts or not wanted.is_relative_to(top):
        return None
    return mount.mount_point / wanted.relative_to(top)


def _search(mounts: list[Mount], pid: int) -> Path | None:
    """Where cgroup.procs lists it: slow, and right whatever namespace we are in."""
    for mount in mounts:
        for directory, _, files in os.walk(mount.mount_point):
            if "cgroup.procs" in files and pid in _processes(Path(directory)):
                return Path(directory)
    return None


def _processes(directory: Path) -> set[int]:
    try:
        return {int(line) for line in (directory / "cgroup.procs").read_text(encoding="ascii").split()}
    except OSError as error:
        # Removed meanwhile; or threaded: its processes are listed in the domain above.
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return set()
        raise


def _visible_mounts() -> list[Mount]:
    """Those not hidden under a later mount on the same place. Raises KernelCannotError if there are none."""
    try:
        found = cgroup2_mounts()
    except FileNotFoundError as error:
        raise KernelCannotError("/proc is not mounted here", hint="mount -t proc proc /proc") from error
    visible = [mount for mount in found if _is_on_top(mount)]
    if not visible:
        raise _not_mounted()
    return visible


def _is_on_top(mount: Mount) -> bool:
    try:
        return mount.mount_point.stat().st_dev == mount.device
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES, errno.ENOTDIR):
            return False
        raise


def _not_mounted() -> KernelCannotError:
    filesystems = Path("/proc/filesystems").read_text(encoding="ascii").split()
    if "cgroup2" not in filesystems:
        return KernelCannotError(
            "this kernel has no cgroup2, which every limit hangs on", hint="It takes Linux 4.10 with CONFIG_CGROUP_BPF."
        )
    return KernelCannotError(
        "cgroup2 is not mounted here",
        hint="To mount it beside whatever else there is:\n"
        "  sudo mkdir -p /run/cgroup2 && sudo mount -t cgroup2 none /run/cgroup2\n"
        "Under `ip netns exec`, which hides it: nsenter --net=/run/netns/NAME chadthrottle …",
    )


def _cannot_open(at: str, error: OSError) -> UsageError | NotPermittedError:
    number = error.errno or errno.EIO
    if number in (errno.EACCES, errno.EPERM):
        return NotPermittedError(
            f"--at {at}: {errno_name(number)}: this user may not open it", hint="Run it with sudo."
        )
    reason = {
        errno.ENOENT: "there is no such cgroup",
        errno.ENODEV: "there is no such cgroup any more",
        errno.ENOTDIR: "this is a file; a cgroup is a directory",
    }.get(number, os.strerror(number))
    return UsageError(f"--at {at}: {errno_name(number)}: {reason}", hint=_where_they_are(at))


def _where_they_are(at: str = "") -> str:
    """Paths as `systemctl show` and /proc/PID/cgroup print them lack the mount point: the usual mistake."""
    try:
        mounts = _visible_mounts()
    except KernelCannotError as error:
        return str(error)
    for mount in mounts if at else ():
        candidate = mount.mount_point / at.lstrip("/")
        if candidate.is_dir():
            return f"Did you mean {candidate}?"
    return f"cgroup2 is at {mounts[0].mount_point}."
