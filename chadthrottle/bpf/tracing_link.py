"""Attaching to tracepoints: raw_tp by name, tp_btf by the BTF type the program was loaded with."""

import errno
import os

from chadthrottle.bpf import attr
from chadthrottle.bpf.constants import AttachType, BpfCmd
from chadthrottle.bpf.errors import AttachError, BpfError, errno_name
from chadthrottle.bpf.links import Link
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.syscall import bpf, failure

__all__ = ["attach_raw_tp", "attach_tp_btf"]


def attach_raw_tp(program: Program, tracepoint: str | None = None) -> Link:
    """Run a raw_tp program at a tracepoint, such as "sched_process_exit".

    BPF_RAW_TRACEPOINT_OPEN (Linux 4.17; it gives a link since 5.7, with info since 5.8), because LINK_CREATE
    does not take these. `tracepoint` defaults to `program.attach_to`. Raises AttachError: ENOENT (no such tracepoint),
    EINVAL (another type of program), EPERM.
    """
    name = tracepoint or program.attach_to
    if not name:
        raise AttachError("BPF_RAW_TRACEPOINT_OPEN", errno.EINVAL, f'program "{program.name}": say which tracepoint')
    return _read_back(_open(program, name), program)


def attach_tp_btf(program: Program) -> Link:
    """Run a tp_btf program at the tracepoint it was loaded for.

    BPF_LINK_CREATE (Linux 5.19), else BPF_RAW_TRACEPOINT_OPEN without a name (5.5). Raises AttachError:
    EINVAL (another type of program), EPERM.
    """
    request = attr.LinkCreate(prog_fd=program.fd, attach_type=AttachType.BPF_TRACE_RAW_TP)
    try:
        link = Link(bpf(BpfCmd.BPF_LINK_CREATE, request))
    except BpfError as error:
        # Either the kernel is older or the program is none of these: the older command tells which.
        if error.errno != errno.EINVAL:
            raise _explain(error, program, program.attach_to) from error
        link = _open(program, None)
    return _read_back(link, program)


def _open(program: Program, name: str | None) -> Link:
    text = None if name is None else attr.buffer_from(name.encode() + b"\0")
    request = attr.RawTracepointOpen(name=attr.address(text), prog_fd=program.fd)
    try:
        return Link(bpf(BpfCmd.BPF_RAW_TRACEPOINT_OPEN, request))
    except BpfError as error:
        raise _explain(error, program, name or program.attach_to) from error


def _read_back(link: Link, program: Program) -> Link:
    try:
        held, wanted = link.program_id, program.info().id
    except BpfError as error:
        if error.errno == errno.EINVAL:  # before Linux 5.8 there is no info
            return link
        link.close()
        raise
    if held != wanted:
        link.close()
        message = f'program "{program.name}" (id {wanted}): read back, the link holds {held}; detached again'
        raise AttachError("BPF_LINK_CREATE", errno.EIO, message)
    return link


def _explain(error: BpfError, program: Program, name: str) -> AttachError:
    at = f"tracepoint {name}" if name else "its tracepoint"
    reason = {
        errno.ENOENT: "this kernel has no such tracepoint, or it is in a module that is not loaded",
        errno.EINVAL: "the program is of another type, or reads more arguments than the tracepoint has",
    }.get(error.errno, os.strerror(error.errno))
    verb = error.command.removeprefix("BPF_").lower()
    message = f'{verb} of program "{program.name}" on {at}: {errno_name(error.errno)}: {reason}'
    explained = AttachError(error.command, error.errno, message)
    if error.errno in (errno.EPERM, errno.EACCES):
        refused = failure(error.command, error.errno)
        explained.hint, explained.exit_code = refused.hint, refused.exit_code
    return explained
