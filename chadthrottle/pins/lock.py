"""One command at a time: flock(2) on the directory of the pins itself.

On the directory and not on a file in /run: the lock is then exactly as wide as what it guards (two
containers may share a bpffs and not /run, or the reverse), needs no second place with rights of its own,
and ends with its holder, killed or not. bpffs leaves flock to the VFS, which has it for every file.
The price: the directory may be removed while somebody waits for it, so whoever gets the lock looks whether
the directory is still the one at that path.
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chadthrottle.pins.errors import BusyError, ForeignContentError, refused

__all__ = ["locked"]

PAUSE_S = 0.005


@contextmanager
def locked(directory: Path, *, create: bool, timeout_s: float) -> Iterator[bool]:
    """Hold the lock. False, and no lock, when there is no directory and `create` is false.

    A directory that is empty in the end is removed: a command that failed leaves nothing. A child made by
    fork() inherits the lock and holds on to it: fork outside of the block. Raises BusyError after
    `timeout_s` seconds, ForeignContentError, NotPermittedError, KernelCannotError.
    """
    fd = _acquire(directory, create=create, deadline=time.monotonic() + timeout_s)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            try:
                _remove_if_empty(directory)
            finally:
                os.close(fd)


def _remove_if_empty(directory: Path) -> None:
    """As the last thing under the lock: whoever comes next makes, and locks, another directory."""
    try:
        directory.rmdir()
    except FileNotFoundError:  # by hand
        return
    except OSError as error:
        # Read-only: whoever wanted to change something was told so already.
        if error.errno not in (errno.ENOTEMPTY, errno.EROFS):
            raise refused("rmdir", directory, error.errno or errno.EIO) from error


def _acquire(directory: Path, *, create: bool, deadline: float) -> int | None:
    while True:
        fd = _open(directory, create=create)
        if fd is None:
            if create:
                continue  # removed between mkdir and open: again
            return None
        try:
            _wait(fd, directory, deadline)
            if _is_still_there(fd, directory):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _open(directory: Path, *, create: bool) -> int | None:
    """The directory, made if need be; None if there is none (any more). Whose it is, is checked."""
    try:
        if create:
            _make(directory)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise _foreign(directory, "not a directory") from error
        raise refused("open", directory, error.errno or errno.EIO) from error
    try:
        _require_ours(fd, directory)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        return
    except OSError as error:
        raise refused("mkdir", directory, error.errno or errno.EIO) from error


def _require_ours(fd: int, directory: Path) -> None:
    """A bpffs of mode 1777, the kernel's default, lets anyone make our directory before us."""
    about = os.fstat(fd)
    if about.st_uid != os.geteuid():
        raise _foreign(directory, f"it belongs to uid {about.st_uid}")
    if stat.S_IMODE(about.st_mode) & 0o022:
        raise _foreign(directory, f"others may write to it (mode {stat.S_IMODE(about.st_mode):o})")


def _wait(fd: int, directory: Path, deadline: float) -> None:
    """flock(2) cannot be told how long to wait. Raises BusyError."""
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise _busy(fd, directory) from None
            time.sleep(PAUSE_S)
        else:
            return


def _is_still_there(fd: int, directory: Path) -> bool:
    try:
        now, held = directory.stat(follow_symlinks=False), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (held.st_dev, held.st_ino)


def _busy(fd: int, directory: Path) -> BusyError:
    about = os.fstat(fd)
    holder = _holder(f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}")
    return BusyError(
        f"another chadthrottle command{holder} has been at work on {directory} for too long",
        hint="Try again; if it hangs, end that process: the lock goes with it, and nothing is half done.",
    )


def _holder(inode: str) -> str:
    # "1: FLOCK  ADVISORY  WRITE 16416 00:28:262709 0 EOF"; the PID is 0 if it is not of this namespace
    with open("/proc/locks", encoding="ascii") as locks:
        for line in locks:
            fields = line.split()
            if "FLOCK" in fields[1:3] and fields[-3] == inode and "->" not in fields:
                return f" (PID {fields[-4]})"
    return ""


def _foreign(directory: Path, why: str) -> ForeignContentError:
    return ForeignContentError(
        f"{directory} is not chadthrottle's: {why}; nothing was changed",
        hint=f"See what it is: sudo ls -la {directory}   and if nobody needs it: sudo rm -r {directory}",
    )
