"""Typed errors of the runtime: one class per thing a caller may want to tell apart."""

import errno as errno_names

from chadthrottle.errors import ChadthrottleError, KernelCannotError, UsageError

__all__ = [
    "AttachError",
    "BpfError",
    "CoreRelocationError",
    "IncompatibleMapError",
    "NotSupportedError",
    "ObjectFormatError",
    "ObjectNotSupportedError",
    "VerifierError",
    "errno_name",
]

# linux/include/linux/errno.h: kernel-internal, but bpf(2) lets this one out.
ENOTSUPP = 524


def errno_name(number: int) -> str:
    """`EINVAL` for 22; `errno 9999` for what has no name."""
    if number == ENOTSUPP:
        return "ENOTSUPP"
    return errno_names.errorcode.get(number, f"errno {number}")


class ObjectFormatError(UsageError):
    """The file is not a BPF object, or is damaged."""


class ObjectNotSupportedError(UsageError):
    """A sound BPF object that uses something this runtime does not implement."""


class BpfError(KernelCannotError):
    """The kernel refused a bpf(2) command.

    `command` is the command's name (`BPF_MAP_CREATE`), `errno` its answer. `exit_code` is 3 for
    EPERM and EACCES without the capability, else 5: see `syscall.bpf`.
    """

    def __init__(self, command: str, errno: int, message: str | None = None, *, hint: str | None = None) -> None:
        self.command = command
        self.errno = errno
        super().__init__(message or f"{command}: {errno_name(errno)}", hint=hint)


class VerifierError(BpfError):
    """The kernel refused a program. `log` is the verifier's whole log; the message shows its end."""

    def __init__(self, program: str, errno: int, log: str, message: str, *, hint: str | None = None) -> None:
        self.program = program
        self.log = log
        super().__init__("BPF_PROG_LOAD", errno, message, hint=hint)


class CoreRelocationError(VerifierError):
    """A CO-RE relocation found nothing to match on this kernel, and the program needs it."""


class AttachError(BpfError):
    """A program could not be attached; the message names the target and the cause."""


class NotSupportedError(KernelCannotError):
    """This kernel lacks a feature. `since` is the Linux version that brought it, such as "5.7"."""

    def __init__(self, feature: str, since: str, *, hint: str | None = None) -> None:
        self.feature = feature
        self.since = since
        super().__init__(f"this kernel does not support {feature} (it came with Linux {since})", hint=hint)


class IncompatibleMapError(ChadthrottleError):
    """A pinned map differs from what the object declares."""
