"""The attachment without a link: BPF_PROG_ATTACH with BPF_F_ALLOW_MULTI (Linux 4.15)."""

import errno
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Never, Self

from chadthrottle.bpf import attr
from chadthrottle.bpf.cgroup_errors import cgroup_failure, second_attachment
from chadthrottle.bpf.cgroupfs import CgroupDirectory, open_cgroup
from chadthrottle.bpf.constants import AttachFlag, AttachType, BpfCmd, LinkType
from chadthrottle.bpf.errors import AttachError, BpfError, NotSupportedError
from chadthrottle.bpf.links import Link, LinkInfo, check_hook, links_of_program
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.query import program_ids
from chadthrottle.bpf.syscall import bpf, bpf_errno

__all__ = ["LegacyCgroupLink", "prog_attach"]


class LegacyCgroupLink(Link):
    """A program attached without a link, behind the interface of one.

    To the kernel it belongs to the cgroup and stays when its creator dies, until somebody detaches it
    or removes the cgroup. Here `close` detaches, as with a link, unless it is pinned: `pin` pins the
    *program*, which another process needs to detach it (`adopt`). `fd` is the cgroup's.
    """

    def __init__(self, program: Program, cgroup: CgroupDirectory, attach_type: AttachType) -> None:
        """Describe what is attached; owns duplicates of both descriptors."""
        super().__init__(os.dup(cgroup.fd))
        self.attach_type = attach_type
        self.cgroup = CgroupDirectory(self._fd, cgroup.path, cgroup.id)
        try:
            self._program = _duplicate(program)
        except BaseException:
            os.close(self._fd)
            self._fd = -1
            raise

    @classmethod
    def adopt(
        cls,
        program: Program,
        cgroup: str | os.PathLike[str] | int,
        attach_type: AttachType,
        *,
        pinned_at: Path | None = None,
    ) -> Self:
        """Take over what another process attached; `program` is opened by its pin or id.

        With the pin's path, `close` leaves it attached and `detach` removes the pin, as for a link opened by
        its pin. Raises AttachError (ENOENT) when it is not attached there.
        """
        with open_cgroup(cgroup) as directory:
            program_id = program.info().id
            if program_id not in program_ids(directory.fd, attach_type):
                raise AttachError(
                    "BPF_PROG_QUERY",
                    errno.ENOENT,
                    f"program {program_id} is not attached to {directory.path} as {attach_type.name}",
                )
            link = cls(program, directory, attach_type)
            link.pinned_at = pinned_at
            return link

    @classmethod
    def open_pinned(cls, path: Path | str) -> Never:
        """Not possible: the pin is the program's. Raises TypeError; use `adopt`."""
        raise TypeError(f"{path} pins a program, not a link: Program.open_pinned, then LegacyCgroupLink.adopt")

    @classmethod
    def by_id(cls, link_id: int) -> Never:
        """Not possible: it has no id. Raises TypeError; use `adopt`."""
        raise TypeError(f"{link_id} is a link's id, and a legacy attachment has none: LegacyCgroupLink.adopt")

    def info(self) -> LinkInfo:
        """As Link.info, put together here; `cgroup_id` is 0 when the program is there no more."""
        program_id = self._program.info().id
        return LinkInfo(
            id=0,
            type=LinkType.BPF_LINK_TYPE_UNSPEC,
            program_id=program_id,
            attach_type=self.attach_type,
            cgroup_id=self.cgroup.id if self._is_attached(program_id) else 0,
        )

    def update(self, program: Program) -> None:
        """Replace the program in one step, by BPF_F_REPLACE; the pin, if any, is the new program's then.

        Raises AttachError as attach_cgroup() does, NotSupportedError before Linux 5.6.
        """
        check_hook("prog_attach", program, self.attach_type)
        flags = AttachFlag.BPF_F_ALLOW_MULTI | AttachFlag.BPF_F_REPLACE
        request = attr.ProgAttach(
            target_fd=self.fd,
            attach_bpf_fd=program.fd,
            attach_type=self.attach_type,
            attach_flags=flags,
            replace_bpf_fd=self._program.fd,
        )
        with ExitStack() as undo:
            successor = undo.enter_context(_duplicate(program))
            if self.pinned_at is not None:
                # bpffs takes no dots in names. The old pin stays valid until the new one takes its place.
                pin = self.pinned_at.with_name(f"{self.pinned_at.name}_new")
                successor.pin(pin)
                undo.callback(pin.unlink)
            self._replace(request, program)
            undo.pop_all()
        predecessor, self._program = self._program, successor
        predecessor.close()
        if self.pinned_at is not None:
            self.pinned_at.with_name(f"{self.pinned_at.name}_new").replace(self.pinned_at)

    def pin(self, path: Path | str) -> None:
        """Pin the program; `close` does not detach from then on."""
        self._program.pin(path)
        self.pinned_at = Path(path)

    def detach(self) -> None:
        """As Link.detach. Raises AttachError, ENOENT when a link holds the program, and stays open."""
        self._prog_detach()
        self.unpin()
        self.leave()

    def close(self) -> None:
        """Detach unless pinned, and give up both descriptors."""
        if self.closed:
            return
        try:
            if self.pinned_at is None:
                self._prog_detach()
        finally:
            self.leave()

    def leave(self) -> None:
        """Give up both descriptors; what is attached stays so."""
        super().close()
        self._program.close()

    def _replace(self, request: attr.ProgAttach, program: Program) -> None:
        _, number = bpf_errno(BpfCmd.BPF_PROG_ATTACH, request)
        if number == 0:
            return
        error = cgroup_failure(BpfCmd.BPF_PROG_ATTACH, number, self.cgroup, self.attach_type, program)
        if number == errno.EINVAL and program.prog_type == self._program.prog_type:
            # Either the flag is unknown, or find_attach_entry() saw the program in the list already.
            if self._is_attached(program.info().id):
                raise second_attachment("prog_attach", program, self.cgroup, self.attach_type) from error
            raise NotSupportedError("replacing a legacy attachment in one step", "5.6") from error
        raise error

    def _prog_detach(self) -> None:
        # Under BPF_F_ALLOW_MULTI the kernel wants the program's descriptor, and no flags.
        request = attr.ProgAttach(target_fd=self.fd, attach_bpf_fd=self._program.fd, attach_type=self.attach_type)
        _, number = bpf_errno(BpfCmd.BPF_PROG_DETACH, request)
        if number == 0:
            return
        if number == errno.ENOENT:
            program_id = self._program.info().id
            if not self._is_attached(program_id):
                return  # somebody detached it, or the cgroup is gone: what was wanted
            raise self._held_by_link(program_id)
        raise cgroup_failure(BpfCmd.BPF_PROG_DETACH, number, self.cgroup, self.attach_type, self._program)

    def _is_attached(self, program_id: int) -> bool:
        try:
            return program_id in program_ids(self.fd, self.attach_type)
        except BpfError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):  # the cgroup was removed
                return False
            raise

    def _held_by_link(self, program_id: int) -> AttachError:
        held = [info.id for info in links_of_program(program_id) if info.cgroup_id == self.cgroup.id]
        link = f"link {held[0]}" if held else "a link"
        return AttachError(
            "BPF_PROG_DETACH",
            errno.ENOENT,
            f"prog_detach on {self.cgroup.path}: ENOENT: {link} holds program {program_id}; detach the link",
        )


def prog_attach(program: Program, directory: CgroupDirectory, attach_type: AttachType) -> LegacyCgroupLink:
    """BPF_PROG_ATTACH, beside whatever is there. Raises BpfError; attach_cgroup() explains it."""
    request = attr.ProgAttach(
        target_fd=directory.fd,
        attach_bpf_fd=program.fd,
        attach_type=attach_type,
        attach_flags=AttachFlag.BPF_F_ALLOW_MULTI,
    )
    # Made first: once attached, nothing may fail that would leave the program there.
    link = LegacyCgroupLink(program, directory, attach_type)
    try:
        bpf(BpfCmd.BPF_PROG_ATTACH, request)
    except BpfError:
        link.leave()  # nothing is attached, so there is nothing to detach
        raise
    except BaseException:
        link.close()  # interrupted: attached or not, it is not afterwards
        raise
    return link


def _duplicate(program: Program) -> Program:
    return Program(
        os.dup(program.fd),
        program.name,
        program.prog_type,
        program.expected_attach_type,
        program.attach_to,
    )
