"""RLIMIT_MEMLOCK, which kernels before 5.11 charge maps and programs against.

Since Linux 5.11 BPF memory is charged to the memory cgroup instead (series "bpf: switch to memcg-based
memory accounting") and the limit is not consulted; nothing here then has an effect.
"""

import contextlib
import errno
import resource
from collections.abc import Callable

__all__ = ["retry_unlocked"]


def retry_unlocked(call: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    """Run `call`, a `bpf_errno` of BPF_MAP_CREATE, BPF_PROG_LOAD or BPF_BTF_LOAD; its (result, errno).

    EPERM is what those kernels say when the limit is used up, so the limit is lifted for this process
    and the call repeated once. If that was not the cause, the limit goes back to what it was.
    """
    result, number = call()
    if number != errno.EPERM:
        return result, number
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if not _lift(before):
        return result, number
    result, number = call()
    if number == errno.EPERM:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, before)
    return result, number


def _lift(before: tuple[int, int]) -> bool:
    """As far as allowed: beyond the hard limit only with CAP_SYS_RESOURCE. False: no further."""
    soft, hard = before
    for wanted in ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (hard, hard)):
        if soft in (resource.RLIM_INFINITY, wanted[0]):
            return False
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, wanted)
        except (ValueError, OSError):
            continue
        return True
    return False
