"""The running kernel's version, for LINUX_KERNEL_VERSION and for messages; no decision hangs on it."""

import os
import re
from pathlib import Path

from chadthrottle.errors import KernelCannotError

__all__ = ["KernelVersion", "kernel_version", "parse_release"]

KernelVersion = tuple[int, int, int]

_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_UBUNTU_SIGNATURE = Path("/proc/version_signature")
_DEBIAN = re.compile(r"\bDebian (\d+\.\d+\.\d+)")


def parse_release(text: str) -> KernelVersion:
    """The numbers at the start of `6.12.117+deb12`, `6.18.44-fc-v657`, `7.0-rc3`.

    Raises KernelCannotError when it does not start with a version.
    """
    match = _RELEASE.match(text)
    if match is None:
        raise KernelCannotError(f"the kernel release {text!r} does not start with a version")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def kernel_version() -> KernelVersion:
    """Of the running kernel, with the true stable patch level.

    Debian and Ubuntu put an ABI number in the place of the patch level in `uname -r` (5.10.0-25) and
    the real version elsewhere.
    """
    uname = os.uname()
    debian = _DEBIAN.search(uname.version)
    if debian is not None:
        return parse_release(debian[1])
    try:
        # "Ubuntu 5.15.0-78.85-generic 5.15.99"
        signature = _UBUNTU_SIGNATURE.read_text(encoding="utf-8", errors="replace").split()
    except FileNotFoundError:
        return parse_release(uname.release)
    except OSError as error:
        raise KernelCannotError(f"cannot read {_UBUNTU_SIGNATURE}: {error}") from error
    return parse_release(signature[-1] if signature else uname.release)
