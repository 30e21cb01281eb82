"""BPF_PROG_LOAD, and making sense of a refusal."""

import ctypes
import errno
import re
from pathlib import Path
from typing import NamedTuple

from chadthrottle.bpf import attr, core_reloc
from chadthrottle.bpf.btf import Btf
from chadthrottle.bpf.constants import BPF_INSN_SIZE, BpfCmd
from chadthrottle.bpf.errors import BpfError, CoreRelocationError, VerifierError, errno_name
from chadthrottle.bpf.maps import kernel_name
from chadthrottle.bpf.memlock import retry_unlocked
from chadthrottle.bpf.spec import ProgramSpec
from chadthrottle.bpf.syscall import bpf_errno, describe_permission, failure

__all__ = ["KernelSide", "load_program"]

_FIRST_LOG_BYTES = 64 << 10
# A longer log is cut: the verifier may write hundreds of megabytes about a million instructions.
_MOST_LOG_BYTES = 16 << 20
# The verifier gives up with EAGAIN when a signal is pending (kernel commit c3494801cd17).
_ATTEMPTS = 5
_LOCKDOWN = Path("/sys/kernel/security/lockdown")
# What bpf_tracing_func_proto() gives to nobody under LOCKDOWN_BPF_READ_KERNEL or _WRITE_USER.
_LOCKED_HELPER = re.compile(r"(unknown func|cannot use helper) bpf_probe_(read|write)")
_SUMMARY = re.compile(r"^(processed \d+ insns|verification time|stack depth|func#\d+ )")


class KernelSide(NamedTuple):
    """What only the running kernel could tell: descriptors and ids, put in before the load."""

    instructions: bytes
    btf_fd: int
    attach_btf_id: int = 0


def load_program(program: ProgramSpec, license_text: str, btf: Btf | None, side: KernelSide) -> int:
    """Load a program; its descriptor comes back.

    Raises VerifierError (CoreRelocationError for what CO-RE could not find), BpfError when the
    kernel refused before verifying, NotSupportedError when it lacks CO-RE (< 5.17).
    """
    instructions = attr.buffer_from(side.instructions)
    license_buffer = attr.buffer_from(license_text.encode() + b"\0")
    request = attr.ProgLoad(
        prog_type=program.type,
        insn_cnt=len(side.instructions) // BPF_INSN_SIZE,
        insns=attr.address(instructions),
        license=attr.address(license_buffer),
        prog_flags=program.flags,
        prog_name=kernel_name(program.name),
        expected_attach_type=program.expected_attach_type or 0,
        attach_btf_id=side.attach_btf_id,
    )
    func_info = attr.buffer_from(program.func_info.data)
    line_info = attr.buffer_from(program.line_info.data)
    relocations = attr.buffer_from(
        b"".join((r.instruction * BPF_INSN_SIZE).to_bytes(4, "little") + r.record[4:] for r in program.core_relocations)
    )
    if side.btf_fd:
        request.prog_btf_fd = side.btf_fd
        request.func_info = attr.address(func_info)
        request.func_info_cnt = program.func_info.count
        request.func_info_rec_size = program.func_info.record_size
        request.line_info = attr.address(line_info)
        request.line_info_cnt = program.line_info.count
        request.line_info_rec_size = program.line_info.record_size
    if program.core_relocations:
        request.core_relos = attr.address(relocations)
        request.core_relo_cnt = len(program.core_relocations)
        request.core_relo_rec_size = len(program.core_relocations[0].record)

    fd, number = retry_unlocked(lambda: _attempt(request))
    if number == 0:
        return fd
    if number in (errno.EMFILE, errno.ENFILE):  # verified, and no descriptor to give: a log would tell nothing
        raise failure("BPF_PROG_LOAD", number, f"of program {program.name} ({program.section})")
    fd, log = _attempt_with_log(request)
    if fd >= 0:
        return fd
    raise _refusal(program, btf, number, log)


def _attempt(request: attr.ProgLoad) -> tuple[int, int]:
    fd, number = -1, errno.EAGAIN
    for _ in range(_ATTEMPTS):
        fd, number = bpf_errno(BpfCmd.BPF_PROG_LOAD, request)
        if number != errno.EAGAIN:
            break
    return fd, number


def _attempt_with_log(request: attr.ProgLoad) -> tuple[int, str]:
    """Again, now with a log: (descriptor or -1, log). Writing one costs much time, so not at first.

    Since Linux 6.4 (kernel commit 1216640938035e63) a log that is too long keeps its end and
    `log_true_size` says how long it is; before, it keeps its beginning and the buffer must grow.
    """
    size = _FIRST_LOG_BYTES
    while True:
        room = (ctypes.c_char * size)()
        request.log_level, request.log_size, request.log_buf = 1, size, attr.address(room)
        fd, number = _attempt(request)
        log = room.value.decode("utf-8", "replace")
        if number != errno.ENOSPC:
            return fd, log
        wanted = request.log_true_size or size * 8
        if size < wanted <= _MOST_LOG_BYTES:
            size = wanted
        elif request.log_true_size:
            return -1, f"(the first {wanted - size} bytes of the log are cut off)\n{log}"
        else:
            return -1, f"{log}\n(the log is longer than {size} bytes: its end is cut off)"


def _refusal(program: ProgramSpec, btf: Btf | None, number: int, log: str) -> BpfError:
    what = f"program {program.name} ({program.section})"
    if not log.strip():
        if number == errno.E2BIG and program.core_relocations:
            from chadthrottle.bpf.features import require  # imported on failure only: it costs ms

            require("core_relos")  # attr longer than the kernel knows, and the rest not zero
        return failure("BPF_PROG_LOAD", number, f"of {what}")
    missing = core_reloc.explain_refusal(program, btf, log) if btf is not None else None
    if missing is not None:
        return CoreRelocationError(program.name, number, log, f"{what}: {missing}")
    tail = "\n".join(f"  {line}" for line in _telling_lines(log))
    error = VerifierError(program.name, number, log, f"{what}: the verifier refused it ({errno_name(number)}):\n{tail}")
    # Without CAP_PERFMON some helpers are unknown to the verifier (bpf_base_func_proto()), and pointers may not be
    # compared: it answers EINVAL and EACCES as for a faulty program.
    missing = describe_permission()
    if missing is not None:
        error.exit_code, error.hint = 3, missing
    elif _LOCKED_HELPER.search(tail) and (mode := _lockdown()) is not None:
        error.exit_code = 3
        error.hint = f"Kernel lockdown ({mode}) takes this helper away. {_LOCKDOWN} shows it; Secure Boot may set it."
    return error


def _lockdown() -> str | None:
    """The mode that kernel_lockdown(7) is in; None for none."""
    try:
        found = re.search(r"\[(\w+)\]", _LOCKDOWN.read_text(encoding="ascii"))
    except OSError:  # not built in, or securityfs is not mounted
        return None
    return found[1] if found and found[1] != "none" else None


def _telling_lines(log: str) -> list[str]:
    """The source line the verifier was at, and the last words before its statistics."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    lines = [line for line in lines if not _SUMMARY.match(line)]
    last = lines[-3:]
    source = next((line for line in reversed(lines) if line.startswith("; ")), None)
    if source is not None and source not in last:
        last.insert(0, source)
    return last
