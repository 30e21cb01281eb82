"""Link: what keeps a program attached. One interface for every kind; a file per kind makes them.

    cgroup_link.attach_cgroup()     also the legacy attachment, for kernels without links
    tcx_link.attach_tcx()
    tracing_link.attach_raw_tp(), attach_tp_btf()
    iter_link.attach_iter()

A link detaches with its last descriptor unless it is pinned; so leaving its `with` block detaches.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from chadthrottle.bpf import attr
from chadthrottle.bpf.constants import AttachType, BpfCmd, LinkType
from chadthrottle.bpf.descriptor import Descriptor, obj_get, require_kind
from chadthrottle.bpf.errors import AttachError, BpfError
from chadthrottle.bpf.info import fd_by_id, ids, object_info
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.syscall import bpf, bpf_errno, failure

__all__ = ["Link", "LinkInfo", "check_hook", "links_of_program"]

# KSYM_NAME_LEN of include/linux/kallsyms.h: no tracepoint or iterator target has a longer name.
NAME_SIZE = 512


class LinkInfo(NamedTuple):
    """struct bpf_link_info; what a kind does not have is None, 0 or an empty string."""

    id: int
    """0 for a legacy attachment, which is no link to the kernel."""
    type: int
    """A LinkType, or a number newer than it."""
    program_id: int
    attach_type: int | None = None
    """An AttachType, or a number newer than it."""
    cgroup_id: int = 0
    """0 when the cgroup was removed: the link is alive, its program runs nowhere."""
    ifindex: int = 0
    """0 when the device was removed."""
    name: str = ""
    """The tracepoint, or the iterator's target."""


class Link(Descriptor):
    """An attached program; owns the link's descriptor."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.pinned_at: Path | None = None

    @classmethod
    def open_pinned(cls, path: Path | str) -> Self:
        """The link pinned at `path`. Raises BpfError: ENOENT, EINVAL when it is a map or program."""
        link = cls(obj_get(path))
        try:
            require_kind(link.fd, "link", path)
        except BaseException:
            link.close()
            raise
        link.pinned_at = Path(path)
        return link

    @classmethod
    def by_id(cls, link_id: int) -> Self:
        """The link with this id (Linux 5.8, CAP_SYS_ADMIN). Raises BpfError (ENOENT: gone)."""
        return cls(fd_by_id(BpfCmd.BPF_LINK_GET_FD_BY_ID, link_id))

    @property
    def id(self) -> int:
        """The kernel's number for it; see LinkInfo.id."""
        return self.info().id

    @property
    def program_id(self) -> int:
        """The id of the program it holds now."""
        return self.info().program_id

    def info(self) -> LinkInfo:
        """The kernel's own account of it. Raises BpfError (EINVAL before Linux 5.8)."""
        return _read_info(self.fd)

    def update(self, program: Program) -> None:
        """Replace the program in one step: no packet meets none or both (Linux 5.7).

        Raises AttachError when `program` was loaded for another hook or another replaced it
        meanwhile, BpfError: EINVAL (another program type, or a kind of link that cannot: raw_tp, tp_btf),
        ENOLINK (cgroup or device removed).
        """
        hook = self.info().attach_type
        # __cgroup_bpf_replace() compares the types of the programs and not what they were loaded for.
        if hook is not None and program.expected_attach_type is not None:
            check_hook("link_update", program, hook)
        request = attr.LinkUpdate(link_fd=self.fd, new_prog_fd=program.fd)
        bpf(BpfCmd.BPF_LINK_UPDATE, request, f"to program {program.name}")
        self._check_holds(program)

    def pin(self, path: Path | str) -> None:
        """As Descriptor.pin: the link, and so the attachment, outlives this process."""
        super().pin(path)
        self.pinned_at = Path(path)

    def unpin(self) -> None:
        """Remove the pin this object made or was opened by. Raises OSError (FileNotFoundError: gone)."""
        if self.pinned_at is not None:
            self.pinned_at.unlink()
            self.pinned_at = None

    def detach(self) -> None:
        """The program runs here no more when this returns; the pin is gone, the descriptor closed.

        The pin is the one this object knows of; another, or another process's descriptor, is left
        with a dead link. Kinds and kernels that cannot detach by force (BPF_LINK_DETACH: Linux 5.9;
        never raw_tp, tp_btf, iter) live as long as somebody holds them: AttachError (EBUSY) then.
        """
        link_id = self._id_or_zero()
        _, number = bpf_errno(BpfCmd.BPF_LINK_DETACH, attr.LinkFd(link_fd=self.fd))
        if number not in (0, errno.EOPNOTSUPP, errno.EINVAL):
            raise failure(BpfCmd.BPF_LINK_DETACH.name, number, f"of link {link_id}")
        self.unpin()
        self.close()
        if number and link_id and _is_alive(link_id):
            raise AttachError(
                "BPF_LINK_DETACH",
                errno.EBUSY,
                f"link_detach of link {link_id}: EBUSY: another pin or process holds it too",
                hint=f"`bpftool link show id {link_id}` and `bpftool -f link` show who.",
            )

    def _id_or_zero(self) -> int:
        try:
            return self.info().id
        except BpfError as error:
            if error.errno != errno.EINVAL:  # Linux 5.7 has links without info
                raise
            return 0

    def _check_holds(self, program: Program) -> None:
        """The link holds `program`. Raises AttachError (EIO) if not."""
        held, wanted = self.program_id, program.info().id
        if held != wanted:
            raise AttachError(
                "BPF_LINK_UPDATE",
                errno.EIO,
                f"link_update to program {program.name} (id {wanted}): the link holds program {held} instead",
            )


def check_hook(where: str, program: Program, attach_type: int) -> None:
    """Raise AttachError (EINVAL) when `program` was loaded for another hook than `attach_type`.

    The kernel does not: it lets an egress program that returns 0 or 1 run on ingress.
    """
    loaded_for = program.expected_attach_type
    if loaded_for is not None and loaded_for != attach_type:
        raise AttachError(
            "BPF_LINK_CREATE",
            errno.EINVAL,
            f'{where}: program "{program.name}" was loaded for {loaded_for.name}, '
            f"it must not run as {_hook_name(attach_type)}",
        )


def links_of_program(program_id: int) -> Iterator[LinkInfo]:
    """Every link that holds this program (Linux 5.8, CAP_SYS_ADMIN). Raises BpfError."""
    for link_id in ids(BpfCmd.BPF_LINK_GET_NEXT_ID):
        try:
            with Link.by_id(link_id) as link:
                info = link.info()
        except BpfError as error:
            if error.errno == errno.ENOENT:  # gone since the kernel named it
                continue
            raise
        if info.program_id == program_id:
            yield info


def _hook_name(attach_type: int) -> str:
    try:
        return AttachType(attach_type).name
    except ValueError:
        return f"attach type {attach_type}"


def _is_alive(link_id: int) -> bool:
    try:
        os.close(fd_by_id(BpfCmd.BPF_LINK_GET_FD_BY_ID, link_id))
    except BpfError as error:
        if error.errno == errno.ENOENT:
            return False
        if error.errno == errno.EPERM:  # without CAP_SYS_ADMIN nobody can tell
            return False
        raise
    return True


def _read_info(fd: int) -> LinkInfo:
    raw = object_info(fd, attr.LinkInfo())
    basics = {"id": raw.id, "type": raw.type, "program_id": raw.prog_id}
    detail: dict[str, Any] = {}
    match raw.type:
        case LinkType.BPF_LINK_TYPE_CGROUP:
            detail = {"attach_type": raw.detail.cgroup.attach_type, "cgroup_id": raw.detail.cgroup.cgroup_id}
        case LinkType.BPF_LINK_TYPE_TCX:
            detail = {"attach_type": raw.detail.tcx.attach_type, "ifindex": raw.detail.tcx.ifindex}
        case LinkType.BPF_LINK_TYPE_TRACING:
            detail = {"attach_type": raw.detail.tracing.attach_type}
        case LinkType.BPF_LINK_TYPE_RAW_TRACEPOINT:
            detail = {"name": _read_name(fd, "raw_tracepoint", "tp_name")}
        case LinkType.BPF_LINK_TYPE_ITER:
            detail = {"name": _read_name(fd, "iter", "target_name")}
    return LinkInfo(**basics, **detail)


def _read_name(fd: int, kind: str, field: str) -> str:
    """The name inside the info of a raw tracepoint or an iterator: it goes to a buffer of ours."""
    room = ctypes.create_string_buffer(NAME_SIZE)
    request = attr.LinkInfo()
    part = getattr(request.detail, kind)
    setattr(part, field, attr.address(room))
    setattr(part, f"{field}_len", NAME_SIZE)
    object_info(fd, request)
    return room.value.decode(errors="replace")
