"""What a measurement came to, reckoned from what was seen. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.accuracy.cells import Cell

__all__ = ["Delay", "Outcome", "Sample", "Seen", "delay", "outcome", "title", "unmeasured"]

LEAST_BYTES_FOR_CPU = 30_000_000
"""Below that, the requests take more of the processor than the limited bulk does."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What had passed the limiter at a time of time.monotonic()."""

    at: float
    wire_bytes: int
    packets: int


@dataclass(frozen=True, slots=True)
class Delay:
    """What a request took beyond what it takes on the idle network, in ms."""

    ms: float
    at_least: bool
    """It would be more, but the measurement ended before the answer came."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one limiter on one kind of traffic; the first second is between the first two samples."""

    samples: Sequence[Sample]
    retransmitted: int
    """Segments, after the first second."""
    idle_s: float
    """A request without bulk and limit."""
    answered: Sequence[tuple[float, float]]
    """When a request was sent, what it took."""
    waiting: Sequence[float]
    """When those without an answer were sent."""
    now: float
    """When that was."""
    cpu_s: float
    """After the first second."""
    died: Sequence[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A cell of the table. With `why`, there is no measurement, and that is the reason."""

    cell: str
    contender: str
    why: str = ""
    achieved: float = 0.0
    """Part of the limit, after the first second."""
    worst: float = 0.0
    best: float = 0.0
    """The seconds of it."""
    bits_per_s: float = 0.0
    retransmitted: int = 0
    packets: int = 0
    p50: Delay | None = None
    p99: Delay | None = None
    requests: int = 0
    cpu_s_per_gb: float | None = None
    died: tuple[str, ...] = ()

    @property
    def retransmitted_part(self) -> float:
        """Of the packets that passed the limiter."""
        return self.retransmitted / self.packets if self.packets else 0.0


def title(cell: Cell) -> str:
    """Its name in the table, and for --cells."""
    flows = "" if cell.protocol == "udp" else f", {cell.flows} flow{'s' if cell.flows > 1 else ''}"
    protocol = cell.protocol.upper() + (" over IPv6" if cell.ipv6 else "")
    return f"{cell.direction} {protocol} {cell.limit}{flows}, {cell.rtt_ms} ms"


def unmeasured(cell: Cell, contender: str, why: str) -> Outcome:
    """A row with a reason."""
    return Outcome(title(cell), contender, why)


def outcome(cell: Cell, contender: str, seen: Seen) -> Outcome:
    """What it came to."""
    first, last = seen.samples[1], seen.samples[-1]
    moved = last.wire_bytes - first.wire_bytes
    by_second = [_ratio(cell, *pair) for pair in pairwise(seen.samples[1:])]
    within = [took - seen.idle_s for sent, took in seen.answered if first.at <= sent <= last.at]
    waited = [seen.now - sent - seen.idle_s for sent in seen.waiting if first.at <= sent <= last.at]
    return Outcome(
        cell=title(cell),
        contender=contender,
        achieved=_ratio(cell, first, last),
        worst=min(by_second),
        best=max(by_second),
        bits_per_s=8 * moved / (last.at - first.at),
        retransmitted=seen.retransmitted,
        packets=last.packets - first.packets,
        p50=delay(within, waited, 0.5),
        p99=delay(within, waited, 0.99),
        requests=len(within) + len(waited),
        cpu_s_per_gb=seen.cpu_s / (moved / 1e9) if moved >= LEAST_BYTES_FOR_CPU else None,
        died=tuple(sorted(set(seen.died))),
    )


def delay(answered_s: Iterable[float], waiting_s: Iterable[float], part: float) -> Delay | None:
    """The delay that this part of the requests does not exceed, by nearest rank; None without requests.

    A request that still waits counts with the time it has waited, which makes a delay as long or longer a lower bound.
    """
    all_of_them = sorted([(took, False) for took in answered_s] + [(waited, True) for waited in waiting_s])
    if not all_of_them:
        return None
    rank = min(len(all_of_them) - 1, int(part * len(all_of_them)))
    return Delay(1000 * max(0.0, all_of_them[rank][0]), any(waits for _, waits in all_of_them[: rank + 1]))


def _ratio(cell: Cell, before: Sample, after: Sample) -> float:
    return (after.wire_bytes - before.wire_bytes) / (after.at - before.at) / cell.rate
