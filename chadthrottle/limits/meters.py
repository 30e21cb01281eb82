"""The kernel's meters of all rules, read twice: what passed in between."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chadthrottle.abi import ThrottleDirection
from chadthrottle.enforce import hooks as hooks_module
from chadthrottle.enforce import rules
from chadthrottle.enforce.hooks import Hooks
from chadthrottle.limits.verdict import Measured, MeasuredBy
from chadthrottle.model import Direction

__all__ = ["INDEX", "Sample", "compare", "hooks_in_place", "read_meters"]

INDEX = {Direction.UP: ThrottleDirection.UP, Direction.DOWN: ThrottleDirection.DOWN}

_NS_PER_S = 1_000_000_000
_TICKS_PER_NS = 256  # ebpf/police.bpf.h

# At twice its burst a rule drops whatever comes (POLICE_FAR_OVER); being further ahead is no excuse.
_MOST_BORROWED_NS = 2 * rules.BURST_NS


@dataclass(frozen=True, slots=True)
class Sample:
    """One rule at one moment of CLOCK_BOOTTIME."""

    rule: rules.Rule
    read_ns: int


@contextmanager
def hooks_in_place(base: Path | None) -> Iterator[Hooks | None]:
    """The hooks, under the lock; None if there are none. Raises what opening them does."""
    pins = hooks_module.pins_of_this_version(base)
    with pins.lock(create=False) as there:
        if not there or not pins.current:
            yield None
            return
        with hooks_module.open_pinned(pins) as hooks:
            yield hooks


def read_meters(base: Path | None) -> dict[int, Sample]:
    """The rules that limit now, by id. The lock is held only for that."""
    with hooks_in_place(base) as hooks:
        if hooks is None:
            return {}
        return {
            rule.id: Sample(rule, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
            for rule in rules.all_rules(hooks)
            if not rule.expired
        }


def compare(first: Sample, second: Sample, direction: Direction, by: MeasuredBy) -> Measured | None:
    """What one rule let pass in between, but for its burst; None if it does not limit that direction, or was changed.

    A rule may be ahead of its rate by a burst. If it is further ahead in the end than it was, that much is to be
    paid back yet: over few seconds it would look like a higher rate.
    """
    index = INDEX[direction]
    asked = second.rule.rate(index)
    if not asked or first.rule.rate(index) != asked:
        return None
    took_ns = second.read_ns - first.read_ns
    before, after = first.rule.meter.count[index], second.rule.meter.count[index]
    moved = int(after.passed_bytes) - int(before.passed_bytes)
    borrowed_ns = min(max(0, _ahead_ns(second, index) - _ahead_ns(first, index)), _MOST_BORROWED_NS)
    moved = max(0, moved - asked * borrowed_ns // _NS_PER_S)
    dropped = int(after.dropped_packets) - int(before.dropped_packets)
    return Measured(by, asked, moved * _NS_PER_S // took_ns, dropped, took_ns / _NS_PER_S)


def _ahead_ns(sample: Sample, index: ThrottleDirection) -> int:
    meter = sample.rule.meter
    return max(0, int(meter.ahead_until[index]) // _TICKS_PER_NS - (sample.read_ns - int(meter.base_ns)))
