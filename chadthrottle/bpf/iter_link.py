"""BPF iterators: a program that walks kernel objects whenever somebody reads (Linux 5.8)."""

import ctypes
import errno
import os
from collections.abc import Iterator

from chadthrottle.bpf import attr
from chadthrottle.bpf.constants import AttachType, BpfCmd
from chadthrottle.bpf.errors import AttachError, BpfError, errno_name
from chadthrottle.bpf.links import Link
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.syscall import bpf, failure

__all__ = ["IterLink", "attach_iter"]

# bpf_seq_read() hands out at most its buffer, 8 pages: more per call buys nothing.
CHUNK_SIZE = 32 * 1024


class IterLink(Link):
    """A link whose program runs once per object of its target, at each reading."""

    def stream(self, chunk_size: int = CHUNK_SIZE) -> Iterator[bytes]:
        """Walk once; what the program writes comes in chunks of at most `chunk_size` bytes.

        An object's output is never split by the kernel's buffer, but chunks are not lines. Each call
        is a walk of its own, in the reader's network and PID namespace. Giving up early ends the walk.
        Raises BpfError: E2BIG (one object's output exceeds the kernel's 32 KiB), EACCES.
        """
        fd = bpf(BpfCmd.BPF_ITER_CREATE, attr.LinkFd(link_fd=self.fd), "for one walk")
        try:
            while chunk := _read(fd, chunk_size):
                yield chunk
        finally:
            os.close(fd)

    def read(self, limit: int = 64 * 1024 * 1024) -> bytes:
        """Walk once, and return all the program wrote.

        Raises as `stream`, and BpfError (EFBIG) past `limit` bytes.
        """
        whole = bytearray()
        for chunk in self.stream():
            whole += chunk
            if len(whole) > limit:
                raise BpfError("read", errno.EFBIG, f"iterator: the output exceeds {limit} bytes")
        return bytes(whole)


def attach_iter(program: Program, target: attr.IterLinkTarget | None = None) -> IterLink:
    """Make an `iter/…` program ready to be read; it runs only then.

    `target` narrows the walk: to a map's elements (needed for them), one task (Linux 6.1), a cgroup
    (6.1). Raises AttachError: EINVAL (another type of program, or a target it cannot have), EBADF (the
    map's descriptor), ESRCH (the task), EPERM.
    """
    request = attr.LinkCreate(prog_fd=program.fd, attach_type=AttachType.BPF_TRACE_ITER)
    if target is not None:
        request.iter_info = ctypes.addressof(target)
        request.iter_info_len = ctypes.sizeof(target)
    try:
        link = IterLink(bpf(BpfCmd.BPF_LINK_CREATE, request))
    except BpfError as error:
        raise _explain(error, program) from error
    try:
        _read_back(link, program)
    except BaseException:
        link.close()
        raise
    return link


def _read_back(link: Link, program: Program) -> None:
    held, wanted = link.program_id, program.info().id
    if held != wanted:
        raise AttachError(
            "BPF_LINK_CREATE",
            errno.EIO,
            f'iterator "{program.name}" (id {wanted}): read back, the link holds {held}; closed again',
        )


def _read(fd: int, size: int) -> bytes:
    while True:
        try:
            return os.read(fd, size)
        except BlockingIOError:
            # bpf_seq_read(): a million objects passed without output. The next read goes on from there.
            continue
        except OSError as error:
            number = error.errno or errno.EIO
            reason = os.strerror(number)
            raise BpfError("read", number, f"reading the iterator: {errno_name(number)} ({reason})") from error


def _explain(error: BpfError, program: Program) -> AttachError:
    reason = {
        errno.EINVAL: "it is no iterator, or its target is missing or not one it can have",
        errno.EBADF: "the target's descriptor is not a map",
        errno.ESRCH: "the target's task does not exist",
    }.get(error.errno, os.strerror(error.errno))
    message = f'link_create of iterator "{program.name}": {errno_name(error.errno)}: {reason}'
    explained = AttachError(error.command, error.errno, message)
    if error.errno in (errno.EPERM, errno.EACCES):
        refused = failure(error.command, error.errno)
        explained.hint, explained.exit_code = refused.hint, refused.exit_code
    return explained
