"""Whose a cgroup is: its owner, and whom systemd has left it to."""

import os
import pwd
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from chadthrottle.bpf.cgroupfs import ancestors

__all__ = ["told"]

# Set by systemd (src/core/cgroup.c): trusted.delegate (v236), and user.delegate (v251), which users may read.
_MARKS = ("trusted.delegate", "user.delegate")


def told(path: Path) -> str:
    """`/sys/fs/cgroup/…, owned by root, delegated at …, not to be written by this user`."""
    parts = [str(path), f"owned by {_owner(path)}", *_delegated(path), *_kind(path)]
    if not os.access(path, os.W_OK):
        parts.append("which this user may not write")
    return ", ".join(parts)


def _owner(path: Path) -> str:
    uid = path.stat().st_uid
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return f"uid {uid}"


def _delegated(path: Path) -> Iterator[str]:
    """The nearest cgroup that systemd marked."""
    for each in chain((path,), ancestors(path)):
        for mark in _MARKS:
            with suppress(OSError):  # ENODATA: not marked; EPERM, EOPNOTSUPP: cannot be told
                if os.getxattr(each, mark) == b"1":
                    yield "delegated" if each == path else f"delegated at {each}"
                    return


def _kind(path: Path) -> Iterator[str]:
    with suppress(OSError):  # the root has no such file
        kind = (path / "cgroup.type").read_text(encoding="ascii").strip()
        if kind != "domain":
            yield kind
