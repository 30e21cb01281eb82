"""What is attached where: BPF_PROG_QUERY on cgroups and on the tcx hooks of a network device."""

import ctypes
import errno
from typing import NamedTuple

from chadthrottle.bpf import attr
from chadthrottle.bpf.constants import AttachFlag, AttachType, BpfCmd, QueryFlag
from chadthrottle.bpf.descriptor import Descriptor
from chadthrottle.bpf.errors import BpfError
from chadthrottle.bpf.info import fd_by_id, program_info
from chadthrottle.bpf.syscall import bpf_errno, failure

__all__ = [
    "MAX_CGROUP_PROGRAMS",
    "MAX_TCX_PROGRAMS",
    "Attached",
    "AttachedProgram",
    "program_ids",
    "query_cgroup",
    "query_tcx",
]

# BPF_CGROUP_MAX_PROGS of kernel/bpf/cgroup.c. Also the first guess for a list's length; only effective
# lists of nested cgroups are longer.
MAX_CGROUP_PROGRAMS = 64
# bpf_mprog_max() of include/linux/bpf_mprog.h: BPF_MPROG_MAX less the list's end.
MAX_TCX_PROGRAMS = 63


class AttachedProgram(NamedTuple):
    """One program in a hook's list. `str()` is how messages name it."""

    id: int
    name: str
    """At most 15 bytes; empty when it was loaded without one, is gone, or CAP_SYS_ADMIN is lacking."""
    tag: str
    """As ProgramInfo.tag; empty when the program is gone or CAP_SYS_ADMIN is lacking."""
    flags: AttachFlag | None = None
    """Its own attach flags (Linux 6.0); None where the kernel does not tell, as in effective lists."""
    link_id: int = 0
    """The link that holds it, 0 if none does or the kernel does not tell (only tcx does)."""

    def __str__(self) -> str:
        return f'"{self.name}" (id {self.id})' if self.name else f"with id {self.id}"


class Attached(NamedTuple):
    """A hook's list, in the order in which the programs run."""

    attach_type: AttachType
    flags: AttachFlag
    """The hook's flags in this cgroup: BPF_F_ALLOW_MULTI, BPF_F_ALLOW_OVERRIDE or 0. An exclusive
    program leaves 0, and so does an empty list; an effective list reports 0 since Linux 6.0."""
    programs: tuple[AttachedProgram, ...]
    revision: int
    """Counts changes of the list (tcx: Linux 6.6, cgroups: 6.17); 0 where the kernel does not."""


class _Answer(NamedTuple):
    """The kernel's reply, before names are looked up."""

    request: attr.ProgQuery
    ids: tuple[int, ...]
    flags: tuple[int, ...] | None
    link_ids: tuple[int, ...]


def query_cgroup(cgroup_fd: int, attach_type: AttachType, *, effective: bool = False) -> Attached:
    """The programs attached to this very cgroup or, with `effective`, all that run for its sockets.

    Linux 4.15. Raises BpfError: EBADF (not a cgroup2 directory), ENOENT (cgroup removed), EINVAL
    (no cgroup hook), EPERM (no CAP_NET_ADMIN).
    """
    return _attached(_query(cgroup_fd, attach_type, effective=effective), attach_type)


def query_tcx(ifindex: int, attach_type: AttachType) -> Attached:
    """The programs on BPF_TCX_INGRESS or BPF_TCX_EGRESS of a device in this network namespace.

    Linux 6.6. Raises BpfError: ENODEV (no such device), EINVAL (no tcx hook, or an older kernel),
    EPERM (no CAP_NET_ADMIN). A device that never had a program has an empty list.
    """
    try:
        answer = _query(ifindex, attach_type, with_links=True)
    except BpfError as error:
        # tcx_prog_query() in kernel/bpf/tcx.c: the list comes into being with the first program.
        if error.errno != errno.ENOENT:
            raise
        return Attached(attach_type, AttachFlag(0), (), 0)
    return _attached(answer, attach_type)


def program_ids(target: int, attach_type: AttachType, *, effective: bool = False) -> tuple[int, ...]:
    """As `query_cgroup`, the ids alone: one bpf(2) call, no CAP_SYS_ADMIN needed."""
    return _query(target, attach_type, effective=effective).ids


def _query(target: int, attach_type: AttachType, *, effective: bool = False, with_links: bool = False) -> _Answer:
    room = MAX_CGROUP_PROGRAMS
    # Per-program flags of an effective list are refused (EINVAL, Linux 6.0).
    with_flags = not effective
    while True:
        ids = (ctypes.c_uint32 * room)()
        flags = (ctypes.c_uint32 * room)()
        link_ids = (ctypes.c_uint32 * room)()
        request = attr.ProgQuery(
            target_fd=target,
            attach_type=attach_type,
            query_flags=QueryFlag.BPF_F_QUERY_EFFECTIVE if effective else 0,
            prog_ids=attr.address(ids),
            prog_cnt=room,
            prog_attach_flags=attr.address(flags) if with_flags else 0,
            link_ids=attr.address(link_ids) if with_links else 0,
        )
        _, number = bpf_errno(BpfCmd.BPF_PROG_QUERY, request)
        if number == 0:
            count = request.prog_cnt
            return _Answer(
                request, tuple(ids[:count]), tuple(flags[:count]) if with_flags else None, tuple(link_ids[:count])
            )
        if number == errno.ENOSPC:
            # The list may grow while we ask; prog_cnt is its length at that moment.
            room = max(2 * room, request.prog_cnt)
        elif with_flags and number in (errno.E2BIG, errno.EINVAL):
            # Before 6.0 a non-zero prog_attach_flags is unknown: E2BIG if it lies beyond the kernel's
            # bpf_attr, EINVAL if beyond what this command uses. What else is EINVAL fails again.
            with_flags = False
        else:
            raise failure(BpfCmd.BPF_PROG_QUERY.name, number, f"for {attach_type.name}")


def _attached(answer: _Answer, attach_type: AttachType) -> Attached:
    flags: tuple[AttachFlag | None, ...] = (None,) * len(answer.ids)
    if answer.flags is not None:
        flags = tuple(map(AttachFlag, answer.flags))
    rows = zip(answer.ids, flags, answer.link_ids, strict=True)
    return Attached(
        attach_type=attach_type,
        flags=AttachFlag(answer.request.attach_flags),
        programs=tuple(_describe(*row) for row in rows),
        revision=answer.request.revision,
    )


def _describe(program_id: int, flags: AttachFlag | None, link_id: int) -> AttachedProgram:
    try:
        with _borrowed(program_id) as program:
            info = program_info(program.fd)
    except BpfError as error:
        # Detached and freed meanwhile, or no CAP_SYS_ADMIN: the list still says that it is there.
        if error.errno not in (errno.ENOENT, errno.EPERM):
            raise
        return AttachedProgram(program_id, "", "", flags, link_id)
    return AttachedProgram(program_id, info.name, info.tag, flags, link_id)


def _borrowed(program_id: int) -> Descriptor:
    return Descriptor(fd_by_id(BpfCmd.BPF_PROG_GET_FD_BY_ID, program_id))
