"""Who is compared: chadthrottle, and what a user would take instead. A new one is a file here and a line below."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.accuracy.cells import Cell
from benchmarks.field.contenders.contender import Contender
from benchmarks.field.contenders.htb import HTB
from benchmarks.field.contenders.nft import NFT
from benchmarks.field.contenders.ours import OURS
from benchmarks.field.contenders.policing import POLICING
from benchmarks.field.contenders.traffictoll import TRAFFICTOLL
from benchmarks.field.contenders.trickle import TRICKLE
from benchmarks.field.contenders.wondershaper import WONDERSHAPER
from benchmarks.field.place import Place

__all__ = ["CONTENDERS", "UNLIMITED", "Contender"]


@contextmanager
def _no_limit(_place: Place, _cell: Cell, _pid: int) -> Iterator[None]:
    yield


UNLIMITED = Contender(
    "none",
    "no limit",
    "The same traffic without a limit: what the network carries, and what that takes.",
    lambda: "",
    _no_limit,
)

CONTENDERS = (*OURS, NFT, HTB, TRICKLE, TRAFFICTOLL, WONDERSHAPER, POLICING, UNLIMITED)
