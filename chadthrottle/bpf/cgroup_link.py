"""Attaching to a cgroup: a BPF link where the kernel has them, else the legacy attachment.

    open the directory ─ right hook? ─ already there? ─ LINK_CREATE ─ read back ─> Link
                                                          │ no links (< 5.7)
                                                          └ PROG_ATTACH ─ read back ─> LegacyCgroupLink

Whatever fails after the program was attached detaches it again.
"""

import errno
import os
from contextlib import suppress
from typing import Literal, get_args

from chadthrottle.bpf import attr
from chadthrottle.bpf.cgroup_errors import explained, second_attachment
from chadthrottle.bpf.cgroup_legacy import LegacyCgroupLink, prog_attach
from chadthrottle.bpf.cgroupfs import CgroupDirectory, ancestors, open_cgroup
from chadthrottle.bpf.constants import AttachType, BpfCmd
from chadthrottle.bpf.errors import AttachError, BpfError, NotSupportedError
from chadthrottle.bpf.links import Link, check_hook
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.query import program_ids
from chadthrottle.bpf.syscall import bpf, bpf_errno

__all__ = ["AttachMethod", "attach_cgroup", "has_links"]

AttachMethod = Literal["auto", "link", "legacy"]

# A descriptor number that no process has: the kernel looks it up, and that is all.
NO_FD = 0xFFFF_FFFF


def attach_cgroup(
    program: Program,
    cgroup: str | os.PathLike[str] | int,
    attach_type: AttachType | None = None,
    method: AttachMethod = "auto",
) -> Link:
    """Run `program` for the sockets of a cgroup (a directory, or a descriptor of one) and those below.

    `attach_type` defaults to what the program was loaded for, and is needed where that is unknown
    (section "cgroup/skb", a program opened by pin or id). `auto` takes a link, or the legacy
    attachment on kernels without links; `link` and `legacy` insist.

    The same program must not run twice for a socket, or it counts twice: one that is attached to this
    cgroup or runs here because of an ancestor is refused. (A second load of the same code, with maps
    of its own, is another program.)

    Raises AttachError, which names cgroup and cause: EEXIST, EINVAL (wrong hook), EPERM (exclusive
    program here or above, or a missing capability: `exit_code` 3), EBADF and ENOTDIR (not a cgroup2
    directory), ENOENT (no such cgroup), E2BIG (64 programs), EIO (not as it should be when read back).
    NotSupportedError: `link` asked for, Linux before 5.7.
    """
    if method not in get_args(AttachMethod):
        raise ValueError(f"method is one of {', '.join(get_args(AttachMethod))}, not {method!r}")
    verb = "prog_attach" if method == "legacy" else "link_create"
    with open_cgroup(cgroup) as directory:
        hook = _hook(verb, program, attach_type, directory)
        with explained(directory, hook, program):
            _refuse_second(verb, program, directory, hook)
            link = _attach(program, directory, hook, method)
            try:
                _read_back(link, program.info().id, directory, hook)
            except BaseException:
                link.close()  # not pinned: this detaches
                raise
    return link


def has_links() -> bool:
    """Whether the kernel knows BPF_LINK_CREATE (Linux 5.7). Raises BpfError when it does not tell.

    An unknown command is EINVAL whatever its arguments; a known one looks up the program's descriptor
    first, and there is none: EBADF.
    """
    request = attr.LinkCreate(prog_fd=NO_FD, target_fd=NO_FD, attach_type=AttachType.BPF_CGROUP_INET_INGRESS)
    _, number = bpf_errno(BpfCmd.BPF_LINK_CREATE, request)
    if number in (errno.EBADF, errno.EINVAL):
        return number == errno.EBADF
    raise BpfError(BpfCmd.BPF_LINK_CREATE.name, number)


def _hook(verb: str, program: Program, attach_type: AttachType | None, directory: CgroupDirectory) -> AttachType:
    hook = program.expected_attach_type if attach_type is None else attach_type
    if hook is None:
        raise AttachError(
            f"BPF_{verb.upper()}",
            errno.EINVAL,
            f'{verb} on {directory.path}: it is unknown what program "{program.name}" was loaded for; '
            "say which attach type it should have",
        )
    check_hook(f"{verb} on {directory.path}", program, hook)
    return hook


def _refuse_second(verb: str, program: Program, directory: CgroupDirectory, hook: AttachType) -> None:
    program_id = program.info().id
    if program_id in program_ids(directory.fd, hook):
        raise second_attachment(verb, program, directory, hook)
    if program_id in program_ids(directory.fd, hook, effective=True):
        above = _ancestor_with(program_id, directory, hook)
        raise second_attachment(verb, program, directory, hook, f"attached to {above} and so runs here")


def _ancestor_with(program_id: int, directory: CgroupDirectory, hook: AttachType) -> str:
    with suppress(BpfError, OSError):  # the refusal stands, whether or not we find out where
        for path in ancestors(f"/proc/self/fd/{directory.fd}"):
            with open_cgroup(path) as above:
                if program_id in program_ids(above.fd, hook):
                    return f"ancestor {path}"
    return "an ancestor that cannot be seen from here"


def _attach(program: Program, directory: CgroupDirectory, hook: AttachType, method: AttachMethod) -> Link:
    if method != "legacy":
        # flags = 0: links are always BPF_F_ALLOW_MULTI, and the flag itself is EINVAL here.
        request = attr.LinkCreate(prog_fd=program.fd, target_fd=directory.fd, attach_type=hook, flags=0)
        try:
            return Link(bpf(BpfCmd.BPF_LINK_CREATE, request))
        except BpfError as error:
            if error.errno != errno.EINVAL or has_links():
                raise
            if method == "link":
                raise NotSupportedError(
                    "BPF links", "5.7", hint="The legacy attachment does without: attach method legacy or auto."
                ) from error
    return prog_attach(program, directory, hook)


def _read_back(link: Link, program_id: int, directory: CgroupDirectory, hook: AttachType) -> None:
    times = program_ids(directory.fd, hook).count(program_id)
    if times > 1:  # between our question and our attachment somebody else attached it
        raise _not_as_wanted(link, directory, f"program {program_id} is there {times} times")
    if times == 0:
        raise _not_as_wanted(link, directory, f"program {program_id} is not in the list of {hook.name}")
    if isinstance(link, LegacyCgroupLink):
        return
    try:
        info = link.info()
    except BpfError as error:
        if error.errno == errno.EINVAL:  # Linux 5.7 has links without info
            return
        raise
    # On 32-bit kernels the inode number is the lower half of the cgroup id.
    right_cgroup = info.cgroup_id == directory.id or info.cgroup_id & 0xFFFF_FFFF == directory.id
    if not right_cgroup or (info.program_id, info.attach_type) != (program_id, hook):
        raise _not_as_wanted(link, directory, f"the link says {info}")


def _not_as_wanted(link: Link, directory: CgroupDirectory, found: str) -> AttachError:
    verb = "prog_attach" if isinstance(link, LegacyCgroupLink) else "link_create"
    return AttachError(
        f"BPF_{verb.upper()}",
        errno.EIO,
        f"{verb} on {directory.path}: EIO: read back after attaching, {found}; detached again",
    )
