"""Run a piece of a test in a forked child that gave up privileges, or sees an older kernel.

The child is this process with its modules and descriptors; what it may do no more is the kernel's
doing, so nothing is mocked.
"""

import ctypes
import errno
import json
import os
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from chadthrottle.bpf import syscall
from chadthrottle.bpf.constants import BpfCmd

# include/uapi/linux/capability.h
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
# include/uapi/linux/prctl.h and seccomp.h
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000
# include/uapi/linux/filter.h: classic BPF
BPF_LD_W_ABS = 0x20
BPF_JEQ_K = 0x15
BPF_JGE_K = 0x35
BPF_RET_K = 0x06
# struct seccomp_data: the system call's number, and the low half of its first argument
DATA_NR = 0
DATA_ARG0 = 16


def in_child(action: Callable[[], Any], *, before: Callable[[], None] = lambda: None) -> Any:
    """Run `before`, then `action`, in a child; returns what `action` returned (as JSON can carry it).

    An exception in the child fails the test, with the child's traceback.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _report(writer, before, action)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as answers:
        text = answers.read()
    _, status = os.waitpid(pid, 0)
    assert text, f"the child died without a word, status {status}"
    answer = json.loads(text)
    assert "failed" not in answer, "in the child:\n" + answer["failed"]
    return answer["returned"]


def keep_capabilities(*kept: int) -> Callable[[], None]:
    """For `before`: drop every capability but these (capset(2)). The uid stays 0."""

    def drop() -> None:
        mask = sum(1 << capability for capability in kept)
        header = ctypes.create_string_buffer(struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0))
        low, high = mask & 0xFFFF_FFFF, mask >> 32
        data = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0))
        _checked("capset", ctypes.CDLL(None, use_errno=True).capset(header, data))

    return drop


def refuse_bpf(number: int, first_command: int = 0) -> Callable[[], None]:
    """For `before`: bpf(2) answers `number` to `first_command` and all later ones (seccomp filter).

    EINVAL from BPF_LINK_CREATE on is what a kernel before 5.7 answers.
    """

    def install() -> None:
        program = [
            (BPF_LD_W_ABS, 0, 0, DATA_NR),
            (BPF_JEQ_K, 0, 3, syscall._syscall_number()),
            (BPF_LD_W_ABS, 0, 0, DATA_ARG0),
            (BPF_JGE_K, 0, 1, first_command),
            (BPF_RET_K, 0, 0, SECCOMP_RET_ERRNO | number),
            (BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW),
        ]
        instructions = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
        filter_program = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(instructions)))
        libc = ctypes.CDLL(None, use_errno=True)
        _checked("prctl", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked("prctl", libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_program, 0, 0))

    return install


def kernel_without_links() -> Callable[[], None]:
    """For `before`: as on Linux before 5.7."""
    return refuse_bpf(errno.EINVAL, BpfCmd.BPF_LINK_CREATE)


def _report(writer: int, before: Callable[[], None], action: Callable[[], Any]) -> NoReturn:
    try:
        before()
        answer = {"returned": action()}
    except BaseException:  # noqa: BLE001 # whatever it is, the parent shows it
        answer = {"failed": traceback.format_exc()}
    os.write(writer, json.dumps(answer).encode())
    sys.stdout.flush()
    os._exit(0)  # no fixture of the parent's may end twice


def _checked(name: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
