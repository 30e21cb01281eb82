"""Does a limit hold? Measured on the program's own traffic, as the kernel's meters count it.

A direction in which the program wants less than its limit proves nothing: whether the limit would hold is
not known. So there are three verdicts, and only one of them is a success.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from chadthrottle.abi import ThrottleDirection
from chadthrottle.enforce import hooks as hooks_module
from chadthrottle.enforce import rules
from chadthrottle.limits.release import no_rule
from chadthrottle.limits.state import where
from chadthrottle.model import AttachPoint, Direction, ProcessIdentity
from chadthrottle.procs import NoSuchProcessError

__all__ = ["HIGHEST", "LOWEST", "Measured", "Verdict", "Verified", "verify"]

LOWEST, HIGHEST = 0.85, 1.05
"""A limit that a program exhausts holds if it gets this share of it. The steady state is better (docs/cli.md), but a
measurement of few seconds may begin and end anywhere in a burst, and TCP falls below a policed rate for moments."""

_STEP_S = 1.0
_NS_PER_S = 1_000_000_000
_DIRECTIONS = {Direction.UP: ThrottleDirection.UP, Direction.DOWN: ThrottleDirection.DOWN}


class Verdict(StrEnum):
    """What a measurement says of one direction."""

    HOLDS = "holds"
    EXCEEDED = "exceeded"
    NOT_MEASURED = "not_measured"
    """The program used less than its limit, or nothing."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One limited direction."""

    asked_bytes_per_s: int
    achieved_bytes_per_s: int
    dropped_packets: int

    @property
    def ratio(self) -> float:
        return self.achieved_bytes_per_s / self.asked_bytes_per_s

    @property
    def verdict(self) -> Verdict:
        if self.ratio > HIGHEST:
            return Verdict.EXCEEDED
        return Verdict.HOLDS if self.ratio >= LOWEST else Verdict.NOT_MEASURED

    def to_json(self) -> dict[str, object]:
        return {
            "verdict": self.verdict.value,
            "asked_bytes_per_s": self.asked_bytes_per_s,
            "achieved_bytes_per_s": self.achieved_bytes_per_s,
            "ratio": round(self.ratio, 4),
            "dropped_packets": self.dropped_packets,
        }


@dataclass(frozen=True, slots=True)
class Verified:
    """One rule. A direction without a limit is None."""

    process: ProcessIdentity
    at: AttachPoint
    seconds: float
    directions: dict[Direction, Measured | None]

    @property
    def verdict(self) -> Verdict:
        """EXCEEDED if any direction is; HOLDS if at least one was measured, and all those hold."""
        found = {measured.verdict for measured in self.directions.values() if measured is not None}
        for verdict in Verdict.EXCEEDED, Verdict.HOLDS:
            if verdict in found:
                return verdict
        return Verdict.NOT_MEASURED

    def to_json(self) -> dict[str, object]:
        return {
            "pid": self.process.pid,
            "start_time": self.process.start_time_ticks,
            "name": self.process.name,
            "verdict": self.verdict.value,
            "seconds": round(self.seconds, 3),
            **{direction.value: each and each.to_json() for direction, each in self.directions.items()},
        }


@dataclass(frozen=True, slots=True)
class _Sample:
    rule: rules.Rule
    at: AttachPoint
    read_ns: int


def verify(pid: int | None, seconds: float, base: Path | None = None) -> tuple[Verified, ...]:
    """Measure the rule of `pid`, or all, over so many seconds. Changes nothing.

    Raises NoSuchProcessError when there is no such rule, or none at all, or it ends meanwhile.
    """
    before = _samples(base)
    if pid is None and not before:
        raise NoSuchProcessError("nothing is limited, so there is nothing to verify")
    chosen = [each for each in before.values() if pid in (None, each.rule.leader.pid)]
    if pid is not None and not chosen:
        raise no_rule(pid, _pids(before.values()))
    until = time.monotonic() + seconds
    while True:
        # In steps, to notice when there is nothing left to measure.
        time.sleep(max(0, min(_STEP_S, until - time.monotonic())))
        after = _samples(base)
        if not any(each.rule.id in after for each in chosen):
            ended = ", ".join(map(str, _pids(chosen)))
            raise NoSuchProcessError(f"the limit ended while it was measured (PID {ended})")
        if time.monotonic() >= until:
            return tuple(_compare(each, after[each.rule.id]) for each in chosen if each.rule.id in after)


def _samples(base: Path | None) -> dict[int, _Sample]:
    """The meters now, by rule. The lock is held only for that."""
    pins = hooks_module.pins_of_this_version(base)
    with pins.lock(create=False) as there:
        if not there or not pins.current:
            return {}
        with hooks_module.open_pinned(pins) as hooks:
            at = where(hooks)
            return {
                rule.id: _Sample(rule, at, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
                for rule in rules.all_rules(hooks)
                if not rule.expired
            }


def _compare(first: _Sample, second: _Sample) -> Verified:
    took_ns = second.read_ns - first.read_ns
    return Verified(
        ProcessIdentity(first.rule.leader.pid, first.rule.leader.start_ticks, first.rule.name),
        first.at,
        took_ns / _NS_PER_S,
        {direction: _direction(first.rule, second.rule, direction, took_ns) for direction in Direction},
    )


def _direction(first: rules.Rule, second: rules.Rule, direction: Direction, took_ns: int) -> Measured | None:
    """None also if the limit was changed meanwhile."""
    index = _DIRECTIONS[direction]
    asked = second.rate(index)
    if not asked or first.rate(index) != asked:
        return None
    before, after = first.meter.count[index], second.meter.count[index]
    moved = int(after.passed_bytes) - int(before.passed_bytes)
    dropped = int(after.dropped_packets) - int(before.dropped_packets)
    return Measured(asked, moved * _NS_PER_S // took_ns, dropped)


def _pids(samples: Iterable[_Sample]) -> list[int]:
    return [each.rule.leader.pid for each in samples]
