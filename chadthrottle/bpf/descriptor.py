"""The base of Map, Program, Link: a kernel object this process holds by file descriptor."""

import contextlib
import errno
import os
import warnings
from pathlib import Path
from types import TracebackType
from typing import Self

from chadthrottle.bpf import attr
from chadthrottle.bpf.constants import BpfCmd
from chadthrottle.bpf.syscall import bpf, bpf_errno, failure

__all__ = ["Descriptor", "obj_get", "obj_pin", "require_kind"]


class Descriptor:
    """Owns one file descriptor: a context manager, closed once.

    Closing drops our reference; the kernel object lives on as long as something else (a pin, a
    link, another process) holds it.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """The descriptor. Raises ValueError when closed, so a reused number is never touched."""
        if self._fd < 0:
            raise ValueError(f"{type(self).__name__} is closed")
        return self._fd

    def fileno(self) -> int:
        return self.fd

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def pin(self, path: Path | str) -> None:
        """Pin into bpffs, so that the object outlives this process. The directory must exist.

        Raises BpfError: EEXIST when the name is taken, EPERM when the path is not in a bpffs.
        """
        obj_pin(self.fd, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(f"{type(self).__name__} was never closed", ResourceWarning, stacklevel=2)
            with contextlib.suppress(OSError):
                self.close()


def obj_pin(fd: int, path: Path | str) -> None:
    """BPF_OBJ_PIN. Raises BpfError, which says whether the place or the name is at fault."""
    name = attr.buffer_from(os.fsencode(path) + b"\0")
    request = attr.Obj(pathname=attr.address(name), bpf_fd=fd)
    _, number = bpf_errno(BpfCmd.BPF_OBJ_PIN, request)
    if number:
        raise failure(BpfCmd.BPF_OBJ_PIN.name, number, f"at {path}", _why_not_pinned(number, Path(path)))


def _why_not_pinned(number: int, path: Path) -> str | None:
    if number == errno.EPERM and "." in path.name:
        return "Names in bpffs have no dots (bpf_lookup in kernel/bpf/inode.c)."
    # bpf_obj_do_pin() takes EPERM for a directory of another filesystem.
    if number in (errno.EPERM, errno.ENOENT):
        return f"{path.parent} must be a directory in a bpffs; to mount one: mount -t bpf bpf /sys/fs/bpf"
    if number == errno.EROFS:
        return f"{path.parent} is mounted read-only; for writing: mount -o remount,rw PLACE, or pin elsewhere."
    if number == errno.EEXIST:
        return "Something is pinned there already; choose another place, or remove it with rm."
    return None


def obj_get(path: Path | str, file_flags: int = 0) -> int:
    """BPF_OBJ_GET: a new descriptor of what is pinned at `path`. Raises BpfError (ENOENT …)."""
    name = attr.buffer_from(os.fsencode(path) + b"\0")
    request = attr.Obj(pathname=attr.address(name), file_flags=file_flags)
    return bpf(BpfCmd.BPF_OBJ_GET, request, f"of {path}")


def require_kind(fd: int, kind: str, path: Path | str) -> None:
    """Raise BpfError (EINVAL) when what was pinned at `path` is no `kind`: "map", "program" or "link".

    BPF_OBJ_GET opens whatever is pinned, and the info of one kind would be taken for another's.
    """
    found = str(Path(f"/proc/self/fd/{fd}").readlink()).removeprefix("anon_inode:")  # bpf-map, bpf-prog, bpf_link
    if found.replace("_", "-") != f"bpf-{kind[:4]}":
        what = f"of {path}: not a {kind} but {found}"
        raise failure(BpfCmd.BPF_OBJ_GET.name, errno.EINVAL, what)
