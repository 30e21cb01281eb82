"""Cgroup directories as the attach code sees them: opened, identified, with their ancestors.

Finding the cgroup of a process is the business of a layer above.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from chadthrottle.bpf.errors import AttachError, errno_name

__all__ = ["CgroupDirectory", "Mount", "ancestors", "cgroup2_mounts", "filesystem_type", "mounts", "open_cgroup"]

# What show_mnt() of fs/proc_namespace.c escapes: space, tab, newline, backslash.
OCTAL_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo, see proc(5)."""

    device: int
    """As os.stat_result.st_dev."""
    root: str
    """The directory of the filesystem that the mount shows: "/" unless a part is bind-mounted."""
    mount_point: Path
    filesystem: str
    source: str


class CgroupDirectory(NamedTuple):
    """An open cgroup directory."""

    fd: int
    path: str
    """As the caller gave it; for a descriptor, what /proc/self/fd says."""
    id: int
    """Its inode number, which is the kernel's cgroup id (Linux 5.5)."""


def mounts() -> list[Mount]:
    """The mounts this process can see. Raises OSError when /proc is missing."""
    return [_parse_mount(line) for line in _mountinfo()]


def cgroup2_mounts() -> list[Mount]:
    """The mounts of the unified hierarchy: one, rarely more, none on a pure cgroup v1 host."""
    # Hosts have hundreds of mounts, and parsing all takes milliseconds. Blanks inside a field are escaped.
    return [_parse_mount(line) for line in _mountinfo() if " - cgroup2 " in line]


def _mountinfo() -> list[str]:
    return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()


def filesystem_type(fd: int) -> str | None:
    """The name of the filesystem `fd` lies on ("cgroup2", "cgroup", "ext4"); None if not visible."""
    device = os.fstat(fd).st_dev
    return next((mount.filesystem for mount in mounts() if mount.device == device), None)


def ancestors(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The cgroups above, nearest first, to the root of the mount `path` lies in.

    In a cgroup namespace or a container there may be more above that cannot be seen from here.
    """
    current = Path(os.path.realpath(path))
    device = current.stat().st_dev
    for parent in current.parents:
        if parent.stat().st_dev != device:
            return
        yield parent


@contextmanager
def open_cgroup(target: str | os.PathLike[str] | int) -> Iterator[CgroupDirectory]:
    """Open a cgroup by path, or use the caller's descriptor, which stays open.

    Raises AttachError: ENOENT (no such cgroup), ENOTDIR (a file), EACCES. Whether it is cgroup2 is
    left to the kernel, which answers EBADF if not.
    """
    if isinstance(target, int):
        yield _identify(target, _path_of(target))
        return
    path = os.fspath(target)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _open_failure(path, error) from error
    try:
        yield _identify(fd, path)
    finally:
        os.close(fd)


def _identify(fd: int, path: str) -> CgroupDirectory:
    try:
        return CgroupDirectory(fd, path, os.fstat(fd).st_ino)
    except OSError as error:
        raise _open_failure(path, error) from error


def _path_of(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:  # a descriptor that is not open; fstat() says so next
        return f"descriptor {fd}"


def _open_failure(path: str, error: OSError) -> AttachError:
    number = error.errno or errno.EIO
    reason = {
        errno.ENOENT: "there is no such cgroup: never made, or removed",
        errno.ENOTDIR: "this is a file; a cgroup is a directory",
        errno.EBADF: "this descriptor is not open",
    }.get(number, os.strerror(number))
    failed = AttachError("open", number, f"open of cgroup {path}: {errno_name(number)}: {reason}")
    if number in (errno.EACCES, errno.EPERM):
        failed.exit_code = 3
    return failed


def _parse_mount(line: str) -> Mount:
    # 36 35 98:0 /root /mount_point options [optional fields] - type source super_options
    before, _, after = line.partition(" - ")
    _, _, device, root, mount_point = before.split(" ")[:5]
    major, minor = device.split(":")
    filesystem, source = after.split(" ")[:2]
    return Mount(
        device=os.makedev(int(major), int(minor)),
        root=_unescape(root),
        mount_point=Path(_unescape(mount_point)),
        filesystem=filesystem,
        source=_unescape(source),
    )


def _unescape(field: str) -> str:
    return OCTAL_ESCAPE.sub(lambda match: chr(int(match[1], 8)), field)
