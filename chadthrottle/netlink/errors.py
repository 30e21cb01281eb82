"""What the kernel answers to rtnetlink, as errors for the user."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]  # pyroute2 has no types

from chadthrottle.errors import KernelCannotError, NotPermittedError

__all__ = ["answered", "told"]

_NO_ANSWER = 0


@contextmanager
def told(what: str) -> Iterator[None]:
    """Raises NotPermittedError for EPERM and EACCES, else KernelCannotError: "cannot `what`: …"."""
    try:
        yield
    except NetlinkError as error:
        message = f"cannot {what}: {os.strerror(error.code)}"
        if error.code in (errno.EPERM, errno.EACCES):
            raise NotPermittedError(message, hint="It takes CAP_NET_ADMIN: run it with sudo.") from error
        raise KernelCannotError(message) from error


def answered(error: BaseException) -> int:
    """The errno that an error of `told` stands for; 0 if it is another error."""
    cause = error.__cause__
    return int(cause.code) if isinstance(cause, NetlinkError) else _NO_ANSWER
