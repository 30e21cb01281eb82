"""One process at a time loads BPF programs on this machine: the leftover checks count on it."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

LOCK = Path("/tmp/ct-kernel.lock")


@contextlib.contextmanager
def kernel_lock(path: Path = LOCK) -> Iterator[None]:
    """Hold the lock. Waits for others, says so, and not for one that our own ancestors hold."""
    fd = _open(path)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not is_held_by_ancestor(path):
                print(f"\nwaiting for {path}: another process runs kernel tests", file=sys.stderr, flush=True)
                fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        # Not with O_CREAT: fs.protected_regular refuses that in /tmp for another user's file, root or not.
        return os.open(path, flags)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, 0o666)


def is_held_by_ancestor(path: Path) -> bool:
    """Whether this process or an ancestor holds a flock on `path`, as under `flock LOCK make test`."""
    target = path.stat()
    pid = os.getpid()
    while pid > 0:
        if _holds(pid, target.st_dev, target.st_ino):
            return True
        pid = _parent(pid)
    return False


def _holds(pid: int, device: int, inode: int) -> bool:
    process = Path(f"/proc/{pid}")
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:  # gone, or another user's
        return False
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            found = descriptor.stat()
            if (found.st_dev, found.st_ino) == (device, inode):
                # proc(5): a line "lock: …" for each lock held through this descriptor.
                text = (process / "fdinfo" / descriptor.name).read_text(encoding="ascii")
                if "FLOCK" in text:
                    return True
    return False


def _parent(pid: int) -> int:
    try:
        # The name in parentheses may hold anything; the parent is the second field after it.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0
