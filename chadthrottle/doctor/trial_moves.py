"""Moving a process of ours about in the cgroup tree, and why that may be refused."""

import errno
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from chadthrottle.bpf.errors import errno_name
from chadthrottle.doctor.trial_steps import StepError

if TYPE_CHECKING:
    from chadthrottle.enforce.private_network import Inhabitant

__all__ = ["cgroup_error", "move", "move_back"]


def move(inhabitant: "Inhabitant", path: Path) -> None:
    """Raises StepError."""
    try:
        (path / "cgroup.procs").write_text(str(inhabitant.pid), encoding="ascii")
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP and _move_threaded(inhabitant, path):
            return
        raise cgroup_error(f"moving a process of ours to {path}", error) from error


def move_back(inhabitant: "Inhabitant", path: Path) -> None:
    """As `move`, if there is still something to move."""
    with suppress(StepError):  # it was killed, with the cgroup it was in
        move(inhabitant, path)


def _move_threaded(inhabitant: "Inhabitant", path: Path) -> bool:
    """A threaded cgroup takes threads whose process is in the domain above it (cgroup-v2.rst, "Threads")."""
    with suppress(OSError):
        domain = next(each for each in path.parents if _type(each) in ("domain threaded", "domain"))
        (domain / "cgroup.procs").write_text(str(inhabitant.pid), encoding="ascii")
        (path / "cgroup.threads").write_text(str(inhabitant.pid), encoding="ascii")
        return True
    return False


def _type(path: Path) -> str:
    file = path / "cgroup.type"
    return file.read_text(encoding="ascii").strip() if file.exists() else "domain"  # the root has none


def cgroup_error(step: str, error: OSError) -> StepError:
    """Why a cgroup could not be made, or a process not be moved to it."""
    number = error.errno or errno.EIO
    means = {
        errno.ENOENT: "the cgroup has been removed",
        errno.ENODEV: "the cgroup has been removed",
        errno.EACCES: "this user may not change that part of the cgroup tree: it is not delegated to it",
        errno.EPERM: "this user may not change that part of the cgroup tree: it is not delegated to it",
        errno.EROFS: "cgroup2 is mounted read-only",
        errno.EAGAIN: "cgroup.max.descendants, cgroup.max.depth or pids.max allow no more",
    }.get(number, error.strerror or "")
    return StepError(step, errno_name(number), means, number=number)
