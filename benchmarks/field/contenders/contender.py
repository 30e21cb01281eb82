"""What a limiter is to the benchmark."""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks.accuracy.cells import Cell
from benchmarks.field.place import Place, Unavailable

__all__ = ["Contender", "debian", "ipv4_only"]

Limit = Callable[[Place, Cell, int], AbstractContextManager[None]]
"""Limits a process, in the cell's direction, while the context lasts. Raises Unavailable."""


def _no_words(_: Cell) -> Sequence[str]:
    return ()


def _can(_: Cell) -> str:
    return ""


def ipv4_only(cell: Cell) -> str:
    """For `cannot`."""
    return "limits IPv4 only" if cell.ipv6 else ""


@dataclass(frozen=True, slots=True)
class Contender:
    """One of those compared: what it is called, whether it is here, how it limits."""

    key: str
    """For the command line."""
    name: str
    about: str
    """What was set up, and what is limited by it, for the page."""
    version: Callable[[], str]
    """Raises Unavailable, saying what to install."""
    limit: Limit
    starts_with: Callable[[Cell], Sequence[str]] = _no_words
    """Words before the limited program's command, for a limiter that has to start it."""
    cannot: Callable[[Cell], str] = _can
    """Why it does not limit such traffic at all; empty if it does."""
    packages: Sequence[str] = ()
    """Debian's, for --install."""


def debian(package: str, program: str) -> Callable[[], str]:
    """The installed version of a package, by whichever means; Unavailable without its program."""

    def version() -> str:
        if not shutil.which(program):
            raise Unavailable(f"not installed (Debian package {package})")
        query = ["dpkg-query", "--show", "--showformat=${Version}", package]
        try:
            done = subprocess.run(query, capture_output=True, text=True, check=False)
        except FileNotFoundError:  # no Debian
            return "of this system"
        return done.stdout if done.returncode == 0 else "of this system"

    return version
