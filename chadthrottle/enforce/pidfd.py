"""Copies of other processes' descriptors (Linux 5.6)."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["copy_of"]

PIDFD_GETFD = 438  # the same number on every architecture


@contextmanager
def copy_of(tgid: int, fd: int) -> Iterator[int]:
    """A copy of a process's descriptor, for the length of the block.

    Raises OSError: ESRCH (the process, or its main thread, has ended), EBADF (closed), EPERM, ENOSYS before
    Linux 5.6.
    """
    with ExitStack() as stack:
        process = os.pidfd_open(tgid)
        stack.callback(os.close, process)
        copy = _pidfd_getfd(process, fd)
        stack.callback(os.close, copy)
        yield copy


def _pidfd_getfd(process: int, fd: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    copy = int(libc.syscall(PIDFD_GETFD, process, fd, 0))
    if copy < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"pidfd_getfd: {os.strerror(number)}")
    return copy
