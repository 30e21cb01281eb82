"""How a demo can end before its end."""

import ctypes
import os

from chadthrottle.errors import ChadthrottleError

__all__ = ["DemoError", "Stopped", "checked"]


class DemoError(ChadthrottleError):
    """The demo could not be set up, or did not show what it should."""


class Stopped(BaseException):
    """A signal asks us to end; its number is the argument."""


def checked(call: str, result: int) -> None:
    """Raise OSError if a C function returned a failure."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
