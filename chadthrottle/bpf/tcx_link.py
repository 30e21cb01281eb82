"""Attaching to a network device: tcx, the traffic control hooks with links (Linux 6.6)."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from chadthrottle.bpf import attr
from chadthrottle.bpf.constants import AttachFlag, AttachType, BpfCmd
from chadthrottle.bpf.errors import AttachError, BpfError, NotSupportedError, errno_name
from chadthrottle.bpf.links import Link, check_hook
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.query import MAX_TCX_PROGRAMS, Attached, AttachedProgram, query_tcx
from chadthrottle.bpf.syscall import bpf, failure

__all__ = ["Anchor", "attach_tcx"]

HOOKS = (AttachType.BPF_TCX_INGRESS, AttachType.BPF_TCX_EGRESS)


@dataclass(frozen=True, slots=True)
class Anchor:
    """A place in the hook's list: before or after a program, or before or after all of them."""

    before: bool
    program_id: int = 0
    """0: all of them."""

    @property
    def flags(self) -> AttachFlag:
        """As BPF_LINK_CREATE wants them."""
        place = AttachFlag.BPF_F_BEFORE if self.before else AttachFlag.BPF_F_AFTER
        return place | AttachFlag.BPF_F_ID if self.program_id else place


def attach_tcx(
    program: Program, ifindex: int, attach_type: AttachType | None = None, *, anchor: Anchor | None = None
) -> Link:
    """Run `program` for each packet of a device of this network namespace; without anchor, last.

    `attach_type` is BPF_TCX_INGRESS or BPF_TCX_EGRESS and defaults to what the program was loaded for.

    Raises AttachError, which names the device and the cause: EEXIST (attached there already), ENODEV,
    EINVAL (wrong hook), ENOENT (the anchor is not in the list), ERANGE (63 programs), EPERM, EIO (not as
    it should be when read back; detached again). NotSupportedError before Linux 6.6.
    """
    hook = _hook(program, attach_type)
    with _explained(ifindex, hook, program):
        program_id = program.info().id
        attached = _query(ifindex, hook)
        if any(other.id == program_id for other in attached.programs):
            raise _error(ifindex, errno.EEXIST, f"it is attached there already as {hook.name}", program)
        request = attr.TcxLinkCreate(
            prog_fd=program.fd,
            target_ifindex=ifindex,
            attach_type=hook,
            flags=anchor.flags if anchor else 0,
            relative=anchor.program_id if anchor else 0,
        )
        link = Link(bpf(BpfCmd.BPF_LINK_CREATE, request))
        try:
            _read_back(link, program_id, ifindex, hook, program)
        except BaseException:
            link.close()  # not pinned: this detaches
            raise
    return link


def _hook(program: Program, attach_type: AttachType | None) -> AttachType:
    hook = program.expected_attach_type if attach_type is None else attach_type
    if hook not in HOOKS:
        raise AttachError(
            "BPF_LINK_CREATE",
            errno.EINVAL,
            f'program "{program.name}": tcx has the attach types {" and ".join(each.name for each in HOOKS)}, '
            f"not {hook.name if hook is not None else 'none'}",
        )
    check_hook("link_create", program, hook)
    return hook


def _query(ifindex: int, hook: AttachType) -> Attached:
    try:
        return query_tcx(ifindex, hook)
    except BpfError as error:
        # A kernel with tcx looks for the device; one without does not know the attach type.
        if error.errno == errno.EINVAL:
            raise NotSupportedError("tcx", "6.6") from error
        raise


def _read_back(link: Link, program_id: int, ifindex: int, hook: AttachType, program: Program) -> None:
    info = link.info()
    if (info.ifindex, info.attach_type, info.program_id) != (ifindex, hook, program_id):
        raise _error(ifindex, errno.EIO, f"read back, the link says {info}; detached again", program)
    if [other.id for other in query_tcx(ifindex, hook).programs].count(program_id) != 1:
        raise _error(ifindex, errno.EIO, "read back, it is not in the list exactly once; detached again", program)


@contextmanager
def _explained(ifindex: int, hook: AttachType, program: Program) -> Iterator[None]:
    try:
        yield
    except AttachError:
        raise
    except BpfError as error:
        raise _explain(error, ifindex, hook, program) from error


def _explain(error: BpfError, ifindex: int, hook: AttachType, program: Program) -> AttachError:
    reason = {
        errno.ENODEV: "there is no such device in this network namespace",
        errno.ENOENT: "the program to attach before or after is not in the list",
        errno.ERANGE: f"{MAX_TCX_PROGRAMS} programs are attached, and the kernel allows no more",
        errno.EINVAL: f"a program of this type cannot be attached as {hook.name}",
    }.get(error.errno, os.strerror(error.errno))
    explained = _error(ifindex, error.errno, reason, program, error.command)
    if error.errno in (errno.EPERM, errno.EACCES):
        refused = failure(error.command, error.errno)
        explained.hint, explained.exit_code = refused.hint, refused.exit_code
    return explained


def _error(ifindex: int, number: int, reason: str, program: Program, command: str = "BPF_LINK_CREATE") -> AttachError:
    verb = command.removeprefix("BPF_").lower()
    what = AttachedProgram(program.info().id, program.name, "")
    message = f"{verb} of program {what} on device {ifindex}: {errno_name(number)}: {reason}"
    return AttachError(command, number, message)
