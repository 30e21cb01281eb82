"""`python -m tests.support.confined COMMAND…`: run it under a seccomp filter that answers bpf(2) with EPERM.

As a container's profile does to a process that is root in all else.
"""

import ctypes
import errno
import os
import struct
import sys

from chadthrottle.bpf.syscall import _syscall_number

# include/uapi/linux/prctl.h, seccomp.h, bpf_common.h, filter.h
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ERRNO = 0x0005_0000
SECCOMP_RET_ALLOW = 0x7FFF_0000
LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def deny_bpf() -> None:
    """For this process and its children, for good. Needs CAP_SYS_ADMIN. Raises OSError."""
    instructions = (
        (LOAD_WORD, 0, 0, 0),  # seccomp_data.nr
        (JUMP_IF_EQUAL, 0, 1, _syscall_number()),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.EPERM),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
    )
    code = b"".join(struct.pack("=HBBI", *each) for each in instructions)
    program = Program(len(instructions), code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")


if __name__ == "__main__":
    deny_bpf()
    os.execvp(sys.argv[1], sys.argv[1:])
