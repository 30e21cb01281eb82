"""wondershaper, as Debian has it: CBQ for uploads, an ingress policer for downloads, for whatever uses the device."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.accuracy.cells import Cell
from benchmarks.field.contenders.contender import Contender, debian, ipv4_only
from benchmarks.field.place import Place, Unavailable, run
from chadthrottle.model import Direction

__all__ = ["WONDERSHAPER"]

UNLIMITED_KBIT = 10_000_000
"""For the other direction: it always sets both."""


@contextmanager
def _limit(place: Place, cell: Cell, _: int) -> Iterator[None]:
    near, kbit = place.near, max(1, cell.rate * 8 // 1000)
    up = cell.direction is Direction.UP
    rates = (UNLIMITED_KBIT, kbit) if up else (kbit, UNLIMITED_KBIT)
    command = near.command("wondershaper", near.device, *map(str, rates))
    # Its exit status is that of its last step; whether the one we need succeeded has to be looked at.
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if up:
        there = "class cbq" in run(near, "tc", "class", "show", "dev", near.device)
    else:
        there = "police" in run(near, "tc", "filter", "show", "dev", near.device, "parent", "ffff:")
    if not there:
        need = "CBQ, which Linux removed in 6.3" if up else "act_police"
        complaints = [line.strip() for line in done.stderr.splitlines() if "Error:" in line] or ["no word why"]
        raise Unavailable(f"needs {need}: tc says {complaints[0 if up else -1]!r}")
    yield  # it goes with the namespace


WONDERSHAPER = Contender(
    "wondershaper",
    "wondershaper",
    "`wondershaper DEVICE DOWN UP`; limits the device, not a program, and IPv4 only.",
    debian("wondershaper", "wondershaper"),
    _limit,
    cannot=ipv4_only,
    packages=("wondershaper",),
)
