"""Sockets that are older than their rule: tagged by one walk of the kernel's, or one by one where it has none.

The walk is iter/task_file (Linux 5.8): every open file of every process, in one read. Else pidfd_getfd(2) (5.6) gives
a copy of each socket of each member, through which the map `tags` is updated; a process whose main thread has ended
is out of its reach.
"""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

from chadthrottle.abi import ThrottleSocket, ThrottleTag
from chadthrottle.enforce.hooks import Hooks
from chadthrottle.enforce.membership import members
from chadthrottle.enforce.namespaces import SIOCGSKNS
from chadthrottle.enforce.pidfd import copy_of
from chadthrottle.procs import Identity

__all__ = ["claim_open_sockets"]

# Gone, or something else, since /proc named it.
_PASSED_OVER = (errno.ESRCH, errno.ENOENT, errno.EBADF, errno.ENOTSOCK)


def claim_open_sockets(hooks: Hooks, rule_id: int, processes: Iterable[Identity]) -> list[ThrottleSocket]:
    """Tag what the rule's members have open; all sockets of the rule that are open.

    Of the latter, those that `processes` have open are found in any case. Raises BpfError, OSError.
    """
    if hooks.open_files is None:
        claiming = {process.pid for process in members(hooks, rule_id)}
        return list(_one_by_one(hooks, rule_id, processes, claiming))
    hooks.claim.update(bytes(4), bytes(ctypes.c_uint64(rule_id)))
    found = hooks.open_files.read()
    size = ctypes.sizeof(ThrottleSocket)
    return [ThrottleSocket.from_buffer_copy(found, at) for at in range(0, len(found), size)]


def _one_by_one(
    hooks: Hooks, rule_id: int, processes: Iterable[Identity], claiming: set[int]
) -> Iterator[ThrottleSocket]:
    for process in processes:
        for fd in _sockets(process.pid):
            try:
                with copy_of(process.pid, fd) as copy:
                    if _belongs(hooks, rule_id, copy, claim=process.pid in claiming):
                        namespace = fcntl.ioctl(copy, SIOCGSKNS)
                        inode = os.fstat(namespace).st_ino
                        os.close(namespace)
                        yield ThrottleSocket(tgid=process.pid, tid=process.pid, fd=fd, namespace=inode)
            except OSError as error:
                if error.errno not in _PASSED_OVER:
                    raise


def _sockets(pid: int) -> Iterator[int]:
    directory = f"/proc/{pid}/fd"
    with suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(directory):
            with suppress(FileNotFoundError, ProcessLookupError):
                if os.readlink(f"{directory}/{name}").startswith("socket:"):  # noqa: PTH115 # thousands of them
                    yield int(name)


def _belongs(hooks: Hooks, rule_id: int, copy: int, *, claim: bool) -> bool:
    """Whether the socket is the rule's; with `claim` it is made so. Only internet sockets have packets."""
    # Only here: kernels with the walk need no sockets of ours, and the import costs 2 ms.
    import socket

    with socket.socket(fileno=os.dup(copy)) as made:
        if made.family not in (socket.AF_INET, socket.AF_INET6):
            return False
    key = bytes(ctypes.c_uint32(copy))
    value = hooks.tags.lookup(key)
    tag = ThrottleTag() if value is None else ThrottleTag.from_buffer_copy(value)
    if tag.rule == rule_id or not claim:
        return tag.rule == rule_id
    # What was set on the socket for another rule is known still, and put back in the end.
    tag.rule, tag.refused, tag.known = rule_id, 0, 0
    hooks.tags.update(key, bytes(tag))
    return True
