"""Why a process cannot be limited: one class per thing a caller may want to tell apart."""

from chadthrottle.errors import ChadthrottleError, UsageError

__all__ = [
    "NoSuchProcessError",
    "OwnSessionError",
    "ProcessNameError",
    "ThreadIdError",
    "UntouchableProcessError",
]


class NoSuchProcessError(ChadthrottleError):
    """Never was, is gone, or is a zombie."""

    exit_code = 4


class ProcessNameError(UsageError):
    """A name where a PID belongs. `pids` are the processes that have it."""

    def __init__(self, message: str, pids: list[int], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.pids = pids


class ThreadIdError(UsageError):
    """A thread id where a PID belongs. `pid` is the process the thread belongs to."""

    def __init__(self, message: str, pid: int, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.pid = pid


class UntouchableProcessError(UsageError):
    """PID 1, a kernel thread, or this very command."""


class OwnSessionError(UsageError):
    """An ancestor of this command: its shell, its sshd."""
