"""What killed test runs have left behind: the next one would trip over it.

Only what bears this project's mark for tests and the number of a process that is no more; under the kernel lock.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from chadthrottle.bpf.cgroupfs import mounts
from tests.support import bpffs, cgroups, network

__all__ = ["clear"]


def clear() -> Iterator[str]:
    """Take it away, and name it."""
    root = cgroups.cgroup2_root()
    for path in root.glob(f"{cgroups.PREFIX}*") if root else ():
        if _is_of_the_dead(path.name, cgroups.PREFIX):
            cgroups.remove_cgroup(path)
            yield f"cgroup {path}"
    for mount in list(mounts()):
        if _is_of_the_dead(mount.source, bpffs.PREFIX):
            bpffs.unmount_bpffs(mount.mount_point)
            yield f"bpffs {mount.mount_point}"
    for path in network.NAMESPACES.glob(f"{network.PREFIX}*"):
        if _is_of_the_dead(path.name, network.PREFIX):
            subprocess.run(["ip", "netns", "del", path.name], check=True)
            yield f"namespace {path.name}"


def _is_of_the_dead(name: str, prefix: str) -> bool:
    """Whether it is called `prefix`PID or `prefix`PID-SOMETHING, and there is no such process."""
    pid = name.removeprefix(prefix).partition("-")[0]
    return name.startswith(prefix) and pid.isdecimal() and not Path(f"/proc/{pid}").exists()
