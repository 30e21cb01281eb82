"""Why the kernel refused to attach to a cgroup: from an errno to cause and cure."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from chadthrottle.bpf.cgroupfs import CgroupDirectory, ancestors, filesystem_type, open_cgroup
from chadthrottle.bpf.constants import AttachFlag, AttachType, BpfCmd
from chadthrottle.bpf.errors import AttachError, BpfError, errno_name
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.query import MAX_CGROUP_PROGRAMS, AttachedProgram, query_cgroup
from chadthrottle.bpf.syscall import describe_permission, failure

__all__ = ["Blocker", "cgroup_failure", "explained", "find_blocker", "second_attachment"]


class Blocker(NamedTuple):
    """A program that lets no other be attached beside or below it."""

    program: AttachedProgram
    overridable: bool
    """Attached with BPF_F_ALLOW_OVERRIDE: it blocks its own cgroup, not those below."""
    path: str
    is_ancestor: bool


def find_blocker(cgroup: CgroupDirectory, attach_type: AttachType) -> Blocker | None:
    """The program because of which attaching with BPF_F_ALLOW_MULTI answers EPERM, if that is why.

    hierarchy_allows_attach() of kernel/bpf/cgroup.c (Linux 4.15 to 6.18): in the cgroup itself any
    program without BPF_F_ALLOW_MULTI; above it, only the nearest cgroup that has programs counts, and
    only without any flag. Raises BpfError or AttachError when a cgroup cannot be queried.
    """
    own = query_cgroup(cgroup.fd, attach_type)
    if own.programs and not own.flags & AttachFlag.BPF_F_ALLOW_MULTI:
        overridable = bool(own.flags & AttachFlag.BPF_F_ALLOW_OVERRIDE)
        return Blocker(own.programs[0], overridable, cgroup.path, is_ancestor=False)
    for path in ancestors(f"/proc/self/fd/{cgroup.fd}"):
        with open_cgroup(path) as directory:
            attached = query_cgroup(directory.fd, attach_type)
        if attached.programs:
            if attached.flags & (AttachFlag.BPF_F_ALLOW_MULTI | AttachFlag.BPF_F_ALLOW_OVERRIDE):
                return None
            return Blocker(attached.programs[0], overridable=False, path=str(path), is_ancestor=True)
    return None


@contextmanager
def explained(cgroup: CgroupDirectory, attach_type: AttachType, program: Program) -> Iterator[None]:
    """Turn a BpfError of the block into the AttachError that says why; others pass."""
    try:
        yield
    except AttachError:
        raise
    except BpfError as error:
        raise cgroup_failure(BpfCmd[error.command], error.errno, cgroup, attach_type, program) from error


def cgroup_failure(
    command: BpfCmd, number: int, cgroup: CgroupDirectory, attach_type: AttachType, program: Program
) -> AttachError:
    """The AttachError for a command on a cgroup that answered `number`. Asks the kernel for more."""
    cause = (
        _not_permitted(cgroup, attach_type) if number == errno.EPERM else _cause(number, cgroup, attach_type, program)
    )
    verb = command.name.removeprefix("BPF_").lower()
    message = f"{verb} on {cgroup.path}: {errno_name(number)}: {cause.reason}"
    error = AttachError(command.name, number, message, hint=cause.hint)
    error.exit_code = cause.exit_code
    return error


def second_attachment(
    verb: str,
    program: Program,
    cgroup: CgroupDirectory,
    attach_type: AttachType,
    where: str = "attached to this cgroup",
) -> AttachError:
    """The AttachError (EEXIST) for a program that would run twice for the same packet."""
    named = AttachedProgram(program.info().id, program.name, "")
    return AttachError(
        f"BPF_{verb.upper()}",
        errno.EEXIST,
        f"{verb} on {cgroup.path}: EEXIST: program {named} is {where} already as {attach_type.name}; "
        "twice, it would count everything twice",
    )


class _Cause(NamedTuple):
    reason: str
    hint: str | None = None
    exit_code: int = AttachError.exit_code


def _not_permitted(cgroup: CgroupDirectory, attach_type: AttachType) -> _Cause:
    try:
        blocker = find_blocker(cgroup, attach_type)
    except (BpfError, OSError):
        blocker = None  # without the capability nothing can be queried either: that is the cause then
    if blocker is not None:
        return _blocked(blocker, attach_type)
    missing = describe_permission()
    if missing is not None:
        return _Cause("not permitted", missing, exit_code=3)
    hint = (
        "It may sit above the cgroups this container shows. Else kernel lockdown, a security module or "
        "seccomp refused: see `dmesg` and the audit log."
    )
    return _Cause(f"refused, and no exclusive program for {attach_type.name} is in sight", hint)


def _blocked(blocker: Blocker, attach_type: AttachType) -> _Cause:
    kind = "an override" if blocker.overridable else "an exclusive"
    where = f"ancestor {blocker.path}" if blocker.is_ancestor else "this cgroup"
    hook = attach_type.name.removeprefix("BPF_").lower()
    hint = (
        f"Attached without BPF_F_ALLOW_MULTI, it tolerates no other for {hook}. Attach elsewhere, or detach it:\n"
        f"  bpftool cgroup detach {blocker.path} {hook} id {blocker.program.id}"
    )
    return _Cause(f"{kind} program {blocker.program} sits on {where}", hint)


def _cause(number: int, cgroup: CgroupDirectory, attach_type: AttachType, program: Program) -> _Cause:
    if number == errno.EBADF:
        return _no_cgroup(cgroup)
    if number in (errno.ENOENT, errno.ENODEV):
        return _Cause("the cgroup has been removed")
    if number == errno.E2BIG:
        return _Cause(
            f"{MAX_CGROUP_PROGRAMS} programs are attached for {attach_type.name}, and the kernel allows no more",
            f"See which: bpftool cgroup show {cgroup.path}",
        )
    if number == errno.EINVAL:
        reason = (
            f'program "{program.name}" cannot be attached as {attach_type.name}: it is of another type, '
            "was loaded for another hook, or this kernel lacks the hook"
        )
        return _Cause(reason)
    return _Cause(os.strerror(number), failure("", number).hint)


def _no_cgroup(cgroup: CgroupDirectory) -> _Cause:
    filesystem = filesystem_type(cgroup.fd)
    find = "`grep cgroup2 /proc/self/mountinfo` shows where the cgroup2 directories are."
    if filesystem == "cgroup2":
        return _Cause("this is a file of a cgroup; a cgroup is a directory")
    if filesystem == "cgroup":
        return _Cause("this is a cgroup v1 directory; BPF programs attach to cgroup2 only", find)
    return _Cause(f"this is no cgroup but lies on {filesystem or 'an unknown filesystem'}", find)
