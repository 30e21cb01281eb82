"""What can go wrong, as the user meets it: what failed, why, what to do.

Every exception chadthrottle raises on purpose derives from ChadthrottleError; its
`exit_code` is the contract in docs/cli.md. Anything else that escapes is a bug.
"""

__all__ = [
    "ChadthrottleError",
    "KernelCannotError",
    "NotPermittedError",
    "UsageError",
]


class ChadthrottleError(Exception):
    """Base of all errors meant for the user.

    `message` says what failed and why; `hint`, if any, is the one thing to do about it.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class UsageError(ChadthrottleError):
    """The request itself is wrong: an argument, or a file that is not what it should be."""

    exit_code = 2


class NotPermittedError(ChadthrottleError):
    """The caller lacks a privilege."""

    exit_code = 3


class KernelCannotError(ChadthrottleError):
    """The kernel or the set-up of this machine cannot do it."""

    exit_code = 5
