"""What a measurement says of a limit."""

from dataclasses import dataclass
from enum import StrEnum

from chadthrottle.model import Direction, ProcessIdentity

__all__ = ["HIGHEST", "LOWEST", "Measured", "MeasuredBy", "Verdict", "Verified"]

LOWEST, HIGHEST = 0.85, 1.05
"""A limit that is exhausted holds if it gives this share of it. The steady state is better (docs/cli.md), but a
measurement of few seconds may begin and end anywhere in a burst, and TCP falls below a policed rate for moments."""

ROOM = 1.25
"""If this much of the limit goes without it, and too little with it, it is the limit that gives too little."""


class MeasuredBy(StrEnum):
    """Whose traffic was measured."""

    LIVE = "live"
    """The program's."""
    OWN_TRANSFER = "own_transfer"
    """A transfer of ours under the same rule, and beside it whatever the program did meanwhile."""


class Verdict(StrEnum):
    """What a measurement says of one direction, or of a rule; the worst first."""

    EXCEEDED = "exceeded"
    NOT_ACHIEVED = "not_achieved"
    """The rule lets less through than it promises, although there is more to send."""
    NOT_MEASURED = "not_measured"
    """There was too little traffic: the program wants less, or this machine carries no more."""
    HOLDS = "holds"


@dataclass(frozen=True, slots=True)
class Measured:
    """One limited direction."""

    by: MeasuredBy
    asked_bytes_per_s: int
    achieved_bytes_per_s: int
    dropped_packets: int
    seconds: float
    carried_bytes_per_s: int | None = None
    """What a transfer of ours reached without the limit; None: it was not tried."""

    @property
    def ratio(self) -> float:
        return self.achieved_bytes_per_s / self.asked_bytes_per_s

    @property
    def verdict(self) -> Verdict:
        if self.ratio > HIGHEST:
            return Verdict.EXCEEDED
        if self.ratio >= LOWEST:
            return Verdict.HOLDS
        if self.carried_bytes_per_s is not None and self.carried_bytes_per_s >= ROOM * self.asked_bytes_per_s:
            return Verdict.NOT_ACHIEVED
        return Verdict.NOT_MEASURED

    def to_json(self) -> dict[str, object]:
        return {
            "verdict": self.verdict.value,
            "measured_by": self.by.value,
            "seconds": round(self.seconds, 3),
            "asked_bytes_per_s": self.asked_bytes_per_s,
            "achieved_bytes_per_s": self.achieved_bytes_per_s,
            "ratio": round(self.ratio, 4),
            "carried_bytes_per_s": self.carried_bytes_per_s,
            "dropped_packets": self.dropped_packets,
        }


@dataclass(frozen=True, slots=True)
class Verified:
    """One rule. A direction without a limit is None."""

    process: ProcessIdentity
    directions: dict[Direction, Measured | None]
    only_live: bool
    """No transfer of ours was wanted: a direction that the program does not exhaust is left open."""
    note: str | None = None
    """A sentence: why there was no transfer of ours, or that the limit was changed."""

    @property
    def measured(self) -> tuple[Measured, ...]:
        """The limited directions."""
        return tuple(each for each in self.directions.values() if each is not None)

    @property
    def verdict(self) -> Verdict:
        """The worst of its directions. With `only_live`, what is left open counts only if nothing else is there."""
        found = {each.verdict for each in self.measured} or {Verdict.NOT_MEASURED}
        if self.only_live and found != {Verdict.NOT_MEASURED}:
            found.discard(Verdict.NOT_MEASURED)
        return next(verdict for verdict in Verdict if verdict in found)

    @property
    def seconds(self) -> float:
        """Of the longest measurement."""
        return max((each.seconds for each in self.measured), default=0)

    def to_json(self) -> dict[str, object]:
        return {
            "pid": self.process.pid,
            "start_time": self.process.start_time_ticks,
            "name": self.process.name,
            "verdict": self.verdict.value,
            "seconds": round(self.seconds, 3),
            **{direction.value: each and each.to_json() for direction, each in self.directions.items()},
            "note": self.note,
        }
