"""The small experiments that features.py is made of: ask the kernel for something, read the errno.

Nothing here attaches anything, and everything made is closed again before the answer is given.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from chadthrottle.bpf import attr
from chadthrottle.bpf.btf import BTF_HEADER
from chadthrottle.bpf.constants import (
    BPF_LD_IMM64,
    BPF_PSEUDO_MAP_VALUE,
    AttachType,
    BpfCmd,
    BtfKind,
    MapType,
    ProgType,
)
from chadthrottle.bpf.errors import ENOTSUPP, NotSupportedError
from chadthrottle.bpf.kernel_btf import vmlinux
from chadthrottle.bpf.memlock import retry_unlocked
from chadthrottle.bpf.syscall import bpf_errno

__all__ = ["BAD_FD", "Support", "Trial", "TrialResult"]

BAD_FD = 0xFFFFFFFF
"""A descriptor that is never open."""

# What a kernel says to a command, flag, field or type that it does not know (E2BIG: a field behind the
# end of its union bpf_attr is not zero).
_UNKNOWN = frozenset({errno.EINVAL, errno.E2BIG, errno.ENOSYS, errno.EOPNOTSUPP, ENOTSUPP})
# kernel/bpf/verifier.c, in the wordings since 3.18.
_NO_HELPER = ("unknown func ", "invalid func ", "cannot use helper", "is not allowed in probe")
_LOG_BYTES = 16384


class Support(Enum):
    """A probe's answer."""

    SUPPORTED = "supported"
    UNSUPPORTED = "unsupported"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The answer, and the errno it was read from (0: the kernel did as asked)."""

    support: Support
    errno: int = 0


Trial = Callable[[], TrialResult]

_UNSUPPORTED = TrialResult(Support.UNSUPPORTED)


def _judge(number: int, *known: int) -> TrialResult:
    """`known`: errors that only a kernel with the feature gets as far as giving."""
    if number == 0 or number in known:
        return TrialResult(Support.SUPPORTED, number)
    if number in _UNKNOWN:
        return TrialResult(Support.UNSUPPORTED, number)
    return TrialResult(Support.INCONCLUSIVE, number)


def _made(call: Callable[[], tuple[int, int]]) -> int:
    """The errno of a command that makes a descriptor, which is closed."""
    fd, number = retry_unlocked(call)
    if number == 0:
        os.close(fd)
    return number


def command(number: BpfCmd, attribute: ctypes.Structure, *known: int) -> Trial:
    """A command on a descriptor that is not open: a kernel that has it says EBADF."""
    return lambda: _judge(bpf_errno(number, attribute)[1], errno.EBADF, *known)


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """One instruction, struct bpf_insn."""
    return struct.pack("<BBhi", code, dst | src << 4, off, imm)


def returns(value: int) -> bytes:
    """r0 = value; exit."""
    return insn(0xB7, imm=value) + insn(0x95)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A program to be loaded. `target` names what a tracing program attaches to, in the kernel's BTF."""

    prog_type: ProgType
    insns: bytes
    attach_type: AttachType | None = None
    target: tuple[BtfKind, str] | None = None
    name: bytes = b""
    core_relo_rec_size: int = 0

    def load(self) -> tuple[int, int, str]:
        """(descriptor, errno, verifier log). Raises NotSupportedError: `target` is not there."""
        target_id = 0
        if self.target is not None:
            found = vmlinux().find(*self.target)
            if found is None:
                raise NotSupportedError(self.target[1], "?")
            target_id = found
        code, license_ = attr.buffer_from(self.insns), attr.buffer_from(b"GPL\0")
        log = (ctypes.c_char * _LOG_BYTES)()
        request = attr.ProgLoad(
            prog_type=self.prog_type,
            insn_cnt=len(self.insns) // 8,
            insns=attr.address(code),
            license=attr.address(license_),
            log_level=1,
            log_size=_LOG_BYTES,
            log_buf=attr.address(log),
            prog_name=self.name,
            expected_attach_type=self.attach_type or 0,
            attach_btf_id=target_id,
            core_relo_rec_size=self.core_relo_rec_size,
        )
        fd, number = retry_unlocked(lambda: bpf_errno(BpfCmd.BPF_PROG_LOAD, request))
        return fd, number, log.value.decode("utf-8", "replace")


def program(attempt: Attempt) -> Trial:
    """Whether a program that only a kernel with the feature accepts is loaded."""

    def run() -> TrialResult:
        try:
            fd, number, _ = attempt.load()
        except NotSupportedError:
            return _UNSUPPORTED
        if number == 0:
            os.close(fd)
        return _judge(number)

    return run


def with_program(attempt: Attempt, use: Callable[[int], int], *known: int) -> Trial:
    """What a command answers that needs a real program; `use` gives its errno for a descriptor."""

    def run() -> TrialResult:
        fd, number, _ = attempt.load()
        if number:
            return _judge(number)
        try:
            return _judge(use(fd), *known)
        finally:
            os.close(fd)

    return run


def helper(
    number: int,
    prog_type: ProgType,
    attach_type: AttachType | None = None,
    target: tuple[BtfKind, str] | None = None,
) -> Trial:
    """Whether programs of a type may call a helper: called without arguments, what is complained of?"""
    attempt = Attempt(prog_type, insn(0x85, imm=number) + insn(0x95), attach_type, target)

    def run() -> TrialResult:
        try:
            fd, answer, log = attempt.load()
        except NotSupportedError:
            return _UNSUPPORTED
        if answer == 0:
            os.close(fd)
            return TrialResult(Support.SUPPORTED)
        if not log:
            return _judge(answer)
        missing = any(words in log for words in _NO_HELPER)
        return TrialResult(Support.UNSUPPORTED if missing else Support.SUPPORTED, answer)

    return run


def map_type(
    map_type: MapType, key_size: int, value_size: int, max_entries: int, flags: int = 0, name: bytes = b""
) -> Trial:
    """Whether such a map is made."""
    request = attr.MapCreate(
        map_type=map_type,
        key_size=key_size,
        value_size=value_size,
        max_entries=max_entries,
        map_flags=flags,
        map_name=name,
    )
    return lambda: _judge(_made(lambda: bpf_errno(BpfCmd.BPF_MAP_CREATE, request)))


def typed_map(map_type: MapType, flags: int) -> Trial:
    """Whether a storage map, which demands BTF, is made: int keys and int values."""

    def run() -> TrialResult:
        btf_fd, number = _load_btf(INT)
        if number:
            return _judge(number)
        try:
            request = attr.MapCreate(
                map_type=map_type,
                key_size=4,
                value_size=4,
                map_flags=flags,
                btf_fd=btf_fd,
                btf_key_type_id=1,
                btf_value_type_id=1,
            )
            return _judge(_made(lambda: bpf_errno(BpfCmd.BPF_MAP_CREATE, request)))
        finally:
            os.close(btf_fd)

    return run


def map_value() -> TrialResult:
    """A program with the address of an array's value in it."""
    request = attr.MapCreate(map_type=MapType.BPF_MAP_TYPE_ARRAY, key_size=4, value_size=8, max_entries=1)
    fd, number = retry_unlocked(lambda: bpf_errno(BpfCmd.BPF_MAP_CREATE, request))
    if number:
        return _judge(number)
    try:
        # r1 = &value
        address = insn(BPF_LD_IMM64, dst=1, src=BPF_PSEUDO_MAP_VALUE, imm=fd) + insn(0)
        return program(Attempt(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, address + returns(0)))()
    finally:
        os.close(fd)


_STRINGS = b"\0name\0"
_NAME = 1


def btf_type(kind: BtfKind, vlen: int, size_or_type: int, *words: int, name: int = _NAME) -> bytes:
    """A struct btf_type and the words behind it."""
    return struct.pack(f"<{3 + len(words)}I", name, kind << 24 | vlen, size_or_type, *words)


INT = btf_type(BtfKind.BTF_KIND_INT, 0, 4, 1 << 24 | 32)
"""Type 1 of every trial: a signed 32-bit integer."""


def btf(*types: bytes) -> Trial:
    """Whether BTF with these types (the first is number 2) is loaded."""

    def run() -> TrialResult:
        fd, number = _load_btf(INT, *types)
        if number == 0:
            os.close(fd)
        return _judge(number)

    return run


def _load_btf(*types: bytes) -> tuple[int, int]:
    body = b"".join(types)
    header = BTF_HEADER.pack(0xEB9F, 1, 0, BTF_HEADER.size, 0, len(body), len(body), len(_STRINGS))
    blob = attr.buffer_from(header + body + _STRINGS)
    request = attr.BtfLoad(btf=attr.address(blob), btf_size=len(blob))
    return retry_unlocked(lambda: bpf_errno(BpfCmd.BPF_BTF_LOAD, request))
