"""cgroup2: where it is, what of it can be seen, whose it is, and whether a cgroup of our own can be made."""

import errno
import os
import pwd
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from chadthrottle import cgroup
from chadthrottle.bpf.cgroupfs import mounts
from chadthrottle.bpf.errors import errno_name
from chadthrottle.doctor.bpffs import BPFFS
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.consequences import ATTACHING, WITHOUT_CGROUP2, lack_of_root
from chadthrottle.doctor.delegation import told
from chadthrottle.doctor.finding import Group, Need, Outcome, failed, ok, unknown, warning
from chadthrottle.doctor.target import NO_ROOT_CGROUP, SOCKETS, TARGET, TARGET_CGROUP
from chadthrottle.doctor.trial_guard import own_name
from chadthrottle.errors import ChadthrottleError, KernelCannotError

__all__ = ["CHECKS"]

_FIND = "/proc/self/mountinfo"


def _mounted(_context: Context) -> Outcome:
    first = sorted({str(mount.mount_point) for mount in mounts() if mount.filesystem == "cgroup"})
    try:
        places = [str(each) for each in cgroup.places()]
    except KernelCannotError as error:
        return _not_mounted(error, first)
    kind = "pure" if not first else "hybrid, with cgroup v1 beside it"
    return ok(f"at {places[0]} ({kind})", details=(*places, *(f"cgroup v1: {each}" for each in first)))


def _not_mounted(error: KernelCannotError, first: list[str]) -> Outcome:
    known = "cgroup2" in Path("/proc/filesystems").read_text(encoding="ascii").split()
    aside = f", but cgroup v1 is ({', '.join(first)})" if first else ""
    return failed(
        f"not mounted{aside}" if known else "this kernel has none",
        tried=f"looking for cgroup2 in {_FIND}",
        came_back=error.message,
        means="BPF programs attach to cgroup2 only, and every limit is such a program",
        cure=(
            ("sudo mkdir -p /run/cgroup2", "sudo mount -t cgroup2 none /run/cgroup2", _HIDDEN)
            if known
            else ("It takes Linux 4.10 with CONFIG_CGROUPS and CONFIG_CGROUP_BPF.",)
        ),
        blocks=WITHOUT_CGROUP2,
    )


_HIDDEN = (
    "Where it is only hidden, as under `ip netns exec`, use nsenter --net=/run/netns/NAME chadthrottle doctor instead."
)


def _root(_context: Context) -> Outcome:
    try:
        top = cgroup.root()
    except KernelCannotError as error:
        shown = ", ".join(map(str, cgroup.places()))
        return failed(
            f"cannot be seen: {shown} shows only a part of the tree",
            tried="the inode numbers of the mounts: the root's is 1",
            came_back=error.message,
            means="this is a container, or a cgroup namespace: limits attach at the root unless told otherwise",
            cure=(
                "Run chadthrottle on the host. From here, as root of the machine, it is:",
                "  nsenter --cgroup=/proc/1/ns/cgroup --mount=/proc/1/ns/mnt chadthrottle doctor",
                "--at leaf works from here, for sockets made in the program's own cgroup.",
            ),
            blocks=WITHOUT_CGROUP2,
        )
    return ok(f"{top}")


def _own(_context: Context) -> Outcome:
    try:
        path = cgroup.path_of(os.getpid())
    except ChadthrottleError as error:
        return unknown("not in the part that can be seen", came_back=error.message)
    return ok(f"{_user()}: {told(path)}")


def _user() -> str:
    """Who called: sudo says for whom it works."""
    uid = int(os.environ.get("SUDO_UID", "") or os.getuid()) if os.environ.get("SUDO_UID", "0").isdigit() else 0
    with suppress(KeyError):
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    return f"uid {uid}"


def _making(context: Context) -> Outcome:
    parent = cgroup.root()
    path = parent / own_name()
    try:
        path.mkdir()
    except OSError as error:
        return _not_made(context, path, error)
    path.rmdir()
    return ok(f"can be made and removed in {parent}")


def _not_made(context: Context, path: Path, error: OSError) -> Outcome:
    number = error.errno or errno.EIO
    because = lack_of_root(context)
    if because:
        return unknown("may not be made", tried=f"mkdir {path}", came_back=errno_name(number), because=because)
    causes = {
        errno.EROFS: (
            "cgroup2 is mounted read-only, as in containers",
            f"sudo mount -o remount,rw {path.parent}",
        ),
        errno.EAGAIN: (
            "cgroup.max.descendants or cgroup.max.depth is used up, here or above",
            f"sudo sh -c 'echo max >{path.parent}/cgroup.max.descendants; echo max >{path.parent}/cgroup.max.depth'",
        ),
    }
    why, cure = causes.get(number, (os.strerror(number), "See the kernel's log and the security modules' (dmesg)."))
    return warning(
        f"none can be made: {why}",
        tried=f"mkdir {path}",
        came_back=errno_name(number),
        means="limits need no cgroup of their own, but without one nothing can be tried where it disturbs nobody",
        cure=(cure,),
    )._replace(blocks=ATTACHING | {Need.CGROUP_MAKING})


def _checks() -> Iterator[Check]:
    in_cgroup2 = frozenset({Need.CGROUP2})
    yield Check("CT-CGROUP-01", Group.CGROUPS, "cgroup2", _mounted)
    yield BPFFS
    # What a part of the tree is enough for, before its root is asked for.
    yield Check("CT-CGROUP-04", Group.CGROUPS, "the caller's cgroup", _own, in_cgroup2)
    yield TARGET
    yield TARGET_CGROUP
    yield SOCKETS
    yield Check(NO_ROOT_CGROUP, Group.CGROUPS, "its root", _root, in_cgroup2)
    making = in_cgroup2 | {Need.CGROUP_MAKING}
    yield Check("CT-CGROUP-05", Group.CGROUPS, "a cgroup of our own", _making, making)


CHECKS: tuple[Check, ...] = tuple(_checks())
