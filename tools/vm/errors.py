"""What the caller has to hear of."""

import shutil

PACKAGES = "qemu-system-x86 busybox-static"


class VmError(Exception):
    """The guest could not be started, or did not finish. Message for the user."""


def find(tool: str) -> str:
    """The path of a program. Raises VmError, naming the packages."""
    path = shutil.which(tool)
    if path is None:
        raise VmError(f"There is no {tool} here, which running other kernels needs: apt-get install {PACKAGES}")
    return path
