"""trickle: a library preloaded into the program, which delays its calls of send and recv."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.accuracy.cells import Cell
from benchmarks.field.contenders.contender import Contender, debian
from benchmarks.field.place import Place
from chadthrottle.model import Direction

__all__ = ["TRICKLE"]

KIB = 1024
"""Its unit, which must be a whole number."""


@contextmanager
def _limit(_place: Place, _cell: Cell, _pid: int) -> Iterator[None]:
    yield  # it is in force since the program began


def _starts_with(cell: Cell) -> Sequence[str]:
    option = "-u" if cell.direction is Direction.UP else "-d"
    return "trickle", "-s", option, str(max(1, round(cell.rate / KIB)))


def _cannot(cell: Cell) -> str:
    return "limits TCP only" if cell.protocol != "tcp" else ""


TRICKLE = Contender(
    "trickle",
    "trickle",
    "`trickle -s -u RATE` or `-d RATE`, in whole KiB/s of payload; limits only a program that it starts, and every "
    "process by itself. Here that program gets what trickle can handle: `select`, for it knows no `epoll`; sockets "
    "made without SOCK_CLOEXEC, for it overlooks others; blocks of 64 KiB, for with 1 MiB it lets 16 times its limit "
    "pass. A program that also waits for a timer, as this one to ask, gets a third more than one that does not.",
    debian("trickle", "trickle"),
    _limit,
    starts_with=_starts_with,
    cannot=_cannot,
    packages=("trickle",),
)
