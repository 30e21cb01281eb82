"""What is measured: one cell is one limit on one kind of traffic."""

from collections.abc import Iterator
from dataclasses import dataclass

from chadthrottle.model import Direction, Engine

__all__ = ["Cell", "full", "quick"]

K, M, G = 1000 // 8, 1_000_000 // 8, 1_000_000_000 // 8
WAN_RTT_MS = 20
IPV4_UDP_HEADERS, IPV6_UDP_HEADERS = 28, 48


@dataclass(frozen=True, slots=True)
class Cell:
    """One limit, in bytes/s, on one kind of traffic."""

    rate: int
    flows: int = 1
    direction: Direction = Direction.UP
    protocol: str = "tcp"
    ipv6: bool = False
    congestion: str = "cubic"
    """TCP: the sender's algorithm."""
    datagram: int = 0
    """UDP: bytes of payload."""
    trickle: bool = False
    """One flow sends all it can, the others 2 kB/s each."""
    rtt_ms: int = 0
    """0: a veth; else the relay of benchmarks/wan."""
    engine: Engine = Engine.AUTO
    least_seconds: int = 6

    @property
    def name(self) -> str:
        path = [f"wan {self.rtt_ms} ms"] if self.rtt_ms else []
        parts = [self.direction.value, *path, self.protocol + ("6" if self.ipv6 else "")]
        parts += [self.congestion] if self.congestion != "cubic" else []
        parts += [f"{self.datagram} B datagrams"] if self.datagram else []
        parts += ["1 bulk, the others trickle"] if self.trickle else []
        parts += [f"({self.engine.value})"] if self.engine is not Engine.AUTO else []
        return " ".join(parts)

    @property
    def seconds(self) -> int:
        """How long it is measured; the first is reported by itself.

        A policed download moves by bursts of 200 ms: one more or less is 4 % of 5 s.
        """
        return max(self.least_seconds, 11 if self.direction is Direction.DOWN else 6)

    @property
    def limit(self) -> str:
        bits = self.rate * 8
        for unit, size in (("Gbit/s", 10**9), ("Mbit/s", 10**6), ("kbit/s", 10**3)):
            if bits >= size:
                return f"{bits / size:g} {unit}"
        return f"{bits} bit/s"

    @property
    def offered_datagrams_per_s(self) -> float:
        """Twice the limit."""
        if not self.datagram:
            return 0
        return 2 * self.rate / (self.datagram + (IPV6_UDP_HEADERS if self.ipv6 else IPV4_UDP_HEADERS))

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Between what the achieved part of the limit is to lie; None: only reported."""
        if self.direction is Direction.DOWN and self.engine is not Engine.CGROUP:
            return 0.98, 1.02
        if self.protocol == "udp":
            return 0.97, 1.03
        if self.direction is Direction.DOWN:
            return 0.93, 1.03
        if self.trickle:
            return 0.95, 1.03
        least = 64 * K if self.rtt_ms >= 4 else M
        return (0.97, 1.03) if self.rate // self.flows >= least else None

    @property
    def least_fairness(self) -> float | None:
        """Jain's, where the project promises it."""
        promised = self.direction is Direction.UP and self.flows > 1 and not self.trickle and self.rate >= 10 * M
        return 0.95 if promised and self.bounds else None


def quick() -> Iterator[Cell]:
    """A cell of each kind: about two minutes."""
    yield Cell(256 * K)
    yield Cell(10 * M, 8)
    yield Cell(100 * M, 64)
    yield Cell(1 * G, 8, ipv6=True)
    yield Cell(20 * M, 16, trickle=True)
    yield Cell(10 * M, congestion="bbr")
    yield Cell(10 * M, 8, rtt_ms=WAN_RTT_MS)
    yield Cell(100 * M, 64, rtt_ms=WAN_RTT_MS)
    yield Cell(10 * M, direction=Direction.DOWN)
    yield Cell(100 * M, 8, direction=Direction.DOWN)
    yield Cell(10 * M, direction=Direction.DOWN, engine=Engine.CGROUP)
    yield Cell(10 * M, protocol="udp", datagram=64)
    yield Cell(10 * M, protocol="udp", datagram=64, direction=Direction.DOWN)


def full() -> Iterator[Cell]:
    """Every kind of traffic at every limit that is of interest."""
    yield from _uploads()
    yield from _downloads()
    yield from _datagrams()
    yield from _wan()


def _uploads() -> Iterator[Cell]:
    yield Cell(1 * M, 64, least_seconds=61)
    for rate in (256 * K, 1 * M, 10 * M, 100 * M, 1 * G, 10 * G):
        for flows in (1, 8, 64):
            yield Cell(rate, flows)
    for rate in (10 * M, 1 * G):
        for flows in (1, 8):
            yield Cell(rate, flows, ipv6=True)
            yield Cell(rate, flows, congestion="bbr")
    yield Cell(64 * M, 64)
    yield Cell(10 * M, 16, trickle=True)
    yield Cell(100 * M, 16, trickle=True)


def _downloads() -> Iterator[Cell]:
    """Queued, and some policed for comparison."""
    for rate in (256 * K, 1 * M, 10 * M, 100 * M, 1 * G, 10 * G):
        for flows in (1, 8, 64):
            yield Cell(rate, flows, direction=Direction.DOWN)
    for congestion, ipv6 in ("bbr", False), ("cubic", True):
        for rate in (10 * M, 100 * M):
            yield Cell(rate, 8, direction=Direction.DOWN, congestion=congestion, ipv6=ipv6)
    for rate in (1 * M, 10 * M, 100 * M):
        for flows in (1, 8):
            yield Cell(rate, flows, direction=Direction.DOWN, engine=Engine.CGROUP)


def _datagrams() -> Iterator[Cell]:
    """UDP, at twice the limit."""
    for direction in Direction:
        for rate in (256 * K, 1 * M, 10 * M):
            yield Cell(rate, protocol="udp", datagram=64, direction=direction)
        for rate in (1 * M, 10 * M, 100 * M):
            yield Cell(rate, protocol="udp", datagram=1400, direction=direction)
        yield Cell(10 * M, protocol="udp", datagram=1400, ipv6=True, direction=direction)


def _wan() -> Iterator[Cell]:
    """Over a round trip of 20 ms, with either algorithm, up to what the relay carries."""
    for congestion in ("cubic", "bbr"):
        for rate in (256 * K, 1 * M, 10 * M, 100 * M, 1 * G, 3 * G):
            for flows in (1, 8, 64):
                yield Cell(rate, flows, congestion=congestion, rtt_ms=WAN_RTT_MS)
    yield Cell(100 * M, 8, ipv6=True, rtt_ms=WAN_RTT_MS)
    yield Cell(10 * M, 16, trickle=True, rtt_ms=WAN_RTT_MS)
    for rate in (256 * K, 1 * M, 10 * M, 100 * M, 1 * G, 3 * G):
        for flows in (1, 8, 64):
            yield Cell(rate, flows, direction=Direction.DOWN, rtt_ms=WAN_RTT_MS)
    for rate in (10 * M, 100 * M):
        yield Cell(rate, 8, direction=Direction.DOWN, rtt_ms=100)
