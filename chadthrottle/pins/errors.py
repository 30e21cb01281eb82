"""What can be wrong with the directory of pins, as the user meets it."""

import errno
import os
from pathlib import Path

from chadthrottle.bpf.errors import errno_name
from chadthrottle.errors import ChadthrottleError, KernelCannotError, NotPermittedError

__all__ = ["BusyError", "ForeignContentError", "refused"]


class BusyError(ChadthrottleError):
    """Another command holds the lock and does not let go."""


class ForeignContentError(KernelCannotError):
    """Something that chadthrottle did not make lies where its pins belong."""


def refused(action: str, path: Path, number: int) -> ChadthrottleError:
    """The error for `action` ("mkdir", "pin") on `path` that the kernel answered with errno `number`."""
    what = f"{action} {path}: {errno_name(number)}"
    match number:
        case errno.EROFS:
            return KernelCannotError(
                f"{what}: this bpffs is mounted read-only, so no limit can be kept",
                hint="sudo mount -o remount,rw /sys/fs/bpf   (or use --foreground, which pins nothing)",
            )
        # bpffs itself has no limit on its size: it is memory, or the memory of our cgroup, that ran out.
        case errno.ENOSPC | errno.ENOMEM | errno.EDQUOT:
            return KernelCannotError(
                f"{what}: bpffs is full: no kernel memory is left for another pin",
                hint="See `free -m` and the memory limit of this shell's cgroup; `chadthrottle list` shows our limits.",
            )
        case errno.EACCES | errno.EPERM:
            hint = "Run it with sudo."
            if os.geteuid() == 0:
                hint = "Root without its capabilities, or a security module's rule (`dmesg | tail`)."
            return NotPermittedError(f"{what}: not permitted", hint=hint)
        case _:
            return KernelCannotError(f"{what}: {os.strerror(number)}")
