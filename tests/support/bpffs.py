"""A bpffs of the test's own: /sys/fs/bpf may be missing, or full of other people's pins."""

import os
import subprocess
from pathlib import Path

from chadthrottle.bpf.cgroupfs import mounts

PREFIX = "ct-test-bpffs-"
"""Of a mount's source; the process's number follows."""


def mount_bpffs(directory: Path) -> None:
    """Mount an empty bpffs over `directory`."""
    subprocess.run(["mount", "-t", "bpf", f"{PREFIX}{os.getpid()}", str(directory)], check=True)


def unmount_bpffs(directory: Path) -> None:
    """Unmount it, and with it every pin inside."""
    subprocess.run(["umount", str(directory)], check=True)


def all_pins() -> set[str]:
    """Every file in every bpffs this process can see, and the mounts the tests made.

    A filesystem mounted twice (into a chroot, say) counts by its first mount only: others may come and
    go with somebody else's work.
    """
    found: set[str] = set()
    seen: set[int] = set()
    for mount in mounts():
        if mount.filesystem != "bpf" or mount.device in seen:
            continue
        seen.add(mount.device)
        if mount.source.startswith(PREFIX):
            found.add(f"bpffs {mount.mount_point}")
        found.update(str(path) for path in mount.mount_point.rglob("*"))
    return found
