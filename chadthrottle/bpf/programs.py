"""Program: a loaded BPF program."""

import ctypes
from pathlib import Path
from typing import NamedTuple

from chadthrottle.bpf import attr
from chadthrottle.bpf.constants import AttachType, BpfCmd, ProgType
from chadthrottle.bpf.descriptor import Descriptor, obj_get, require_kind
from chadthrottle.bpf.info import ProgramInfo, fd_by_id, program_info
from chadthrottle.bpf.syscall import bpf

__all__ = ["Program", "TestRun"]


class TestRun(NamedTuple):
    """What BPF_PROG_TEST_RUN answered."""

    retval: int
    data: bytes
    """The packet after the program."""
    context: bytes
    """The context (struct __sk_buff …) after the program; empty if none was passed."""
    duration_ns: int
    """Mean time of one run, as the kernel measured it."""


class Program(Descriptor):
    """A program in the kernel; owns its descriptor.

    `name` is the object's symbol, not cut to 15 bytes. `expected_attach_type` and `attach_to` are
    what it was loaded with; both unknown (None, "") for a program opened by pin or id.
    """

    def __init__(
        self,
        fd: int,
        name: str,
        prog_type: int,
        expected_attach_type: AttachType | None = None,
        attach_to: str = "",
    ) -> None:
        super().__init__(fd)
        self.name = name
        self.prog_type = prog_type
        self.expected_attach_type = expected_attach_type
        self.attach_to = attach_to

    def __repr__(self) -> str:
        return f"Program({self.name!r}, fd={self._fd})"

    @classmethod
    def open_pinned(cls, path: Path | str) -> "Program":
        """The program pinned at `path`. Raises BpfError: ENOENT when nothing is there, EINVAL when it is not a
        program.
        """
        return cls._adopt(obj_get(path), path)

    @classmethod
    def by_id(cls, program_id: int) -> "Program":
        """The program with this id. Raises BpfError (ENOENT: gone)."""
        return cls._adopt(fd_by_id(BpfCmd.BPF_PROG_GET_FD_BY_ID, program_id))

    @classmethod
    def _adopt(cls, fd: int, pin: Path | str | None = None) -> "Program":
        program = cls(fd, "?", ProgType.BPF_PROG_TYPE_UNSPEC)
        try:
            if pin is not None:
                require_kind(fd, "program", pin)
            info = program.info()
        except BaseException:
            program.close()
            raise
        program.name, program.prog_type = info.name, info.type
        return program

    def info(self) -> ProgramInfo:
        """The kernel's own account of it. Raises BpfError."""
        return program_info(self.fd)

    def test_run(
        self,
        data: bytes = b"",
        context: bytes = b"",
        *,
        repeat: int = 1,
        data_out_size: int | None = None,
    ) -> TestRun:
        """BPF_PROG_TEST_RUN: run it on a packet, without attaching (Linux 4.12).

        For skb programs `data` starts with a link header of 14 bytes and `context` is a struct
        __sk_buff. Raises BpfError: ENOTSUPP if the type has no test run, ENOSPC if the packet grew
        past `data_out_size` (default: its size and 256 bytes).
        """
        data_in = attr.buffer_from(data)
        out_size = len(data) + 256 if data_out_size is None else data_out_size
        data_out = (ctypes.c_char * max(1, out_size))()
        context_in = attr.buffer_from(context)
        context_out = (ctypes.c_char * max(1, len(context)))()
        request = attr.ProgTestRun(prog_fd=self.fd, repeat=repeat)
        if data:
            request.data_in, request.data_size_in = attr.address(data_in), len(data)
            request.data_out, request.data_size_out = attr.address(data_out), out_size
        if context:
            request.ctx_in, request.ctx_size_in = attr.address(context_in), len(context)
            request.ctx_out, request.ctx_size_out = attr.address(context_out), len(context)
        bpf(BpfCmd.BPF_PROG_TEST_RUN, request, f"of program {self.name}")
        return TestRun(
            retval=request.retval,
            data=data_out.raw[: request.data_size_out] if data else b"",
            context=context_out.raw[: request.ctx_size_out] if context else b"",
            duration_ns=request.duration,
        )

    def call(self, context: bytes) -> int:
        """Run a `syscall` program on `context`; its return value (Linux 5.14).

        bpf_prog_test_run_syscall() refuses everything else that BPF_PROG_TEST_RUN can be given. Raises
        BpfError: EINVAL for a context smaller than the program reads, or another type of program.
        """
        buffer = attr.buffer_from(context)
        request = attr.ProgTestRun(prog_fd=self.fd, ctx_in=attr.address(buffer), ctx_size_in=len(context))
        bpf(BpfCmd.BPF_PROG_TEST_RUN, request, f"of program {self.name}")
        return int(request.retval)
