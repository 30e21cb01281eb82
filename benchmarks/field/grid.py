"""The kinds of traffic on which limiters are compared."""

from collections.abc import Iterator

from benchmarks.accuracy.cells import WAN_RTT_MS, Cell, G, M
from chadthrottle.model import Direction

__all__ = ["full", "quick"]

UP, DOWN = Direction
DATAGRAM = 1400
FLOWS = (1, 8, 64)


def quick() -> Iterator[Cell]:
    """What the picture shows: a home's line, a fast one, UDP; each way."""
    for direction in DOWN, UP:
        yield Cell(10 * M, direction=direction, rtt_ms=WAN_RTT_MS)
        yield Cell(100 * M, 8, direction=direction)
        yield Cell(10 * M, protocol="udp", datagram=DATAGRAM, direction=direction)


def full() -> Iterator[Cell]:
    """Rate x direction x flows x round trip x protocol, quick()'s among them."""
    for direction in DOWN, UP:
        for rtt_ms in 0, WAN_RTT_MS:
            for rate in M, 10 * M, 100 * M, G:
                for flows in FLOWS:
                    yield Cell(rate, flows, direction=direction, rtt_ms=rtt_ms)
            for rate in M, 10 * M, 100 * M:
                yield Cell(rate, protocol="udp", datagram=DATAGRAM, direction=direction, rtt_ms=rtt_ms)
        yield Cell(10 * M, 8, ipv6=True, direction=direction)
