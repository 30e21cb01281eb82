"""Cgroups for tests, below the root of the unified hierarchy, never the root itself."""

import itertools
import os
import signal
import time
from pathlib import Path

from chadthrottle.bpf.cgroupfs import cgroup2_mounts

PREFIX = "ct-test-"

_numbers = itertools.count()


def cgroup2_root() -> Path | None:
    """Where the whole hierarchy is mounted; None on a host without cgroup2."""
    return next((mount.mount_point for mount in cgroup2_mounts()), None)


def make_cgroup(root: Path) -> Path:
    """A new cgroup whose name no other test process uses."""
    path = root / f"{PREFIX}{os.getpid()}-{next(_numbers)}"
    path.mkdir()
    return path


def remove_cgroup(path: Path, patience: float = 5) -> None:
    """Remove a cgroup and those below, killing what runs in them. Raises TimeoutError."""
    deadline = time.monotonic() + patience
    while path.exists():
        for directory, _, _ in os.walk(path, topdown=False):
            _kill_all(Path(directory))
            try:
                Path(directory).rmdir()
            except FileNotFoundError:
                pass
            except OSError as error:  # EBUSY until the killed ones are gone
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{directory} could not be removed: {error}") from error
        time.sleep(0.005)


def leftover_cgroups() -> set[str]:
    """Test cgroups that exist, of whichever process."""
    root = cgroup2_root()
    return set() if root is None else {str(path) for path in root.glob(f"{PREFIX}*")}


def _kill_all(directory: Path) -> None:
    try:
        pids = (directory / "cgroup.procs").read_text(encoding="ascii").split()
    except OSError:
        return
    for pid in map(int, pids):
        if pid == os.getpid():  # a test that entered its cgroup and failed
            cgroup2_procs = directory.parent / "cgroup.procs"
            cgroup2_procs.write_text(str(pid), encoding="ascii")
        else:
            os.kill(pid, signal.SIGKILL)
