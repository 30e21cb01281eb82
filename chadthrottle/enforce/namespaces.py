"""Reading an iterator in every network namespace that matters.

iter/tcp walks the sockets of the reader's own network namespace and no other (measured, Linux 6.18). A socket stays in
the namespace it was made in, wherever its process goes.
"""

import ctypes
import errno
import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain

from chadthrottle.abi import ThrottleSocket
from chadthrottle.enforce.pidfd import copy_of

__all__ = ["NOWHERE", "SIOCGSKNS", "Namespaces", "all_namespaces", "namespaces_by_inode", "namespaces_of"]

CLONE_NEWNET = 0x4000_0000  # include/uapi/linux/sched.h
SIOCGSKNS = 0x894C  # include/uapi/linux/sockios.h: a descriptor of a socket's network namespace (Linux 4.10)


class Namespaces:
    """Open descriptors of network namespaces."""

    def __init__(self, descriptors: Mapping[int, int]) -> None:
        """By the namespaces' inodes."""
        self._descriptors = tuple(descriptors.values())
        self.inodes = frozenset(descriptors)

    def each(self, action: Callable[[], object]) -> None:
        """Run `action` once in each.

        In a thread of its own for each, which ends with it: the caller never changes namespace. All get
        their turn, then the first failure is raised: whatever `action` raises, or OSError when setns(2)
        refuses (EPERM).
        """
        failures = [failure for fd in self._descriptors for failure in _in_thread(fd, action)]
        if failures:
            raise failures[0]


_PATIENCE, _PAUSE_S = 50, 0.001


@contextmanager
def namespaces_of(pids: Iterable[int], sockets: Iterable[ThrottleSocket] = ()) -> Iterator[Namespaces]:
    """The network namespaces that these processes are in, and those that these sockets are in.

    Whoever is gone by now has none.
    """
    found: dict[int, int] = {}
    with ExitStack() as stack:
        for fd in _descriptors(pids, sockets, found):
            stack.callback(os.close, fd)
            found.setdefault(os.fstat(fd).st_ino, fd)
        yield Namespaces(found)


@contextmanager
def namespaces_by_inode(inodes: Collection[int]) -> Iterator[Namespaces]:
    """Those of these network namespaces that a process is in or that are mounted somewhere (ip-netns(8))."""
    with ExitStack() as stack:
        yield _found(stack, inodes)


@contextmanager
def all_namespaces() -> Iterator[Namespaces]:
    """As `namespaces_by_inode`, whichever there are and may be looked at."""
    with ExitStack() as stack:
        yield _found(stack, None)


def _found(stack: ExitStack, wanted: Collection[int] | None) -> Namespaces:
    found: dict[int, int] = {}
    for path in () if wanted is not None and not wanted else chain(_of_processes(), _mounted()):
        with suppress(OSError):  # gone; or hidden from us, as a mount is that another one covers
            inode = os.stat(path).st_ino  # noqa: PTH116 # as often as there are processes
            if (wanted is None or inode in wanted) and inode not in found:
                found[inode] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, found[inode])
        if wanted is not None and len(found) == len(wanted):
            break
    return Namespaces(found)


NOWHERE = Namespaces({})


def _of_processes() -> Iterator[str]:
    yield "/proc/self/ns/net"
    yield from (f"/proc/{name}/ns/net" for name in os.listdir("/proc") if name.isdigit())


def _mounted() -> Iterator[str]:
    """Where namespaces are mounted, as pid 1 sees it and as we do (proc_pid_mountinfo(5))."""
    for whose in "1", "self":
        with suppress(OSError), open(f"/proc/{whose}/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                fields = line.split()
                if fields[3].startswith("net:["):
                    yield f"/proc/{whose}/root{_unescaped(fields[4])}"


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _descriptors(pids: Iterable[int], sockets: Iterable[ThrottleSocket], found: dict[int, int]) -> Iterator[int]:
    """One after the other; `found` has the inodes of those that the caller took so far."""
    for pid in pids:
        # A main thread that has exited has no namespace any more; its sockets below lead there.
        yield from _of_thread(f"/proc/{pid}/ns/net", found)
    for each in sockets:
        if each.namespace not in found:
            yield from _of_thread(f"/proc/{each.tgid}/task/{each.tid}/ns/net", found)
        if each.namespace not in found:
            yield from _of_socket(each)


def _of_thread(path: str, found: dict[int, int]) -> Iterator[int]:
    """A descriptor for each namespace, not for each process: there may be more of those than descriptors."""
    with suppress(FileNotFoundError, ProcessLookupError):
        if _inode(path) not in found:
            yield os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _inode(path: str) -> int:
    """A process in the middle of execve() or exit() is closed to root too, for a moment (seen in a storm of forks)."""
    for _ in range(_PATIENCE):
        with suppress(PermissionError):
            return os.stat(path).st_ino  # noqa: PTH116 # as often as there are processes
        time.sleep(_PAUSE_S)
    return os.stat(path).st_ino  # noqa: PTH116


def _of_socket(socket: ThrottleSocket) -> Iterator[int]:
    """By a copy of the socket itself: its process has left the namespace. None if it is gone."""
    try:
        with copy_of(socket.tgid, socket.fd) as copy:
            namespace = fcntl.ioctl(copy, SIOCGSKNS)
    except OSError as error:
        # Closed meanwhile, or by now something else than a socket; ENOSYS before Linux 5.6.
        if error.errno in (errno.ESRCH, errno.EBADF, errno.EINVAL, errno.ENOTTY, errno.ENOSYS):
            return
        raise
    yield namespace


def _enter(namespace: int) -> None:
    # os.setns() came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns into a network namespace: {os.strerror(number)}")


def _in_thread(namespace: int, action: Callable[[], object]) -> list[BaseException]:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            _enter(namespace)
            action()
        except BaseException as error:  # noqa: BLE001 # raised again by whoever started this thread
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return failures
