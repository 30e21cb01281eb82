"""Does a limit hold? Measured on the program's live traffic, or on a transfer of our own under the same rule.

A direction in which the program wants less than its limit proves nothing. Then a guest joins the rule and wants more
(own_transfer.py); what is left open after that is no success either.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from chadthrottle.errors import ChadthrottleError
from chadthrottle.limits.meters import INDEX, Sample, compare, read_meters
from chadthrottle.limits.release import no_rule
from chadthrottle.limits.verdict import Measured, MeasuredBy, Verdict, Verified
from chadthrottle.model import Direction, ProcessIdentity
from chadthrottle.procs import NoSuchProcessError

if TYPE_CHECKING:
    from chadthrottle.limits.own_transfer import OwnTransfer

__all__ = ["Traffic", "verify"]

_STEP_S = 1.0


class Traffic(Enum):
    """What to measure by."""

    LIVE = auto()
    """The program's alone: nothing is changed."""
    OWN = auto()
    """A transfer of ours alone."""
    LIVE_THEN_OWN = auto()
    """A transfer of ours in those directions that the program does not exhaust."""


def verify(pid: int | None, seconds: float, traffic: Traffic, base: Path | None = None) -> Iterator[Verified]:
    """Measure the rule of `pid`, or all: live traffic of all over so many seconds, then one after the other.

    A rule that ends meanwhile is left out. Raises NoSuchProcessError when there is no such rule, or none at all,
    or none that lasts. With Traffic.OWN raises also what keeps a transfer of ours from being made; otherwise that
    is a note.
    """
    before = read_meters(base)
    if pid is None and not before:
        raise NoSuchProcessError("nothing is limited, so there is nothing to verify")
    chosen = [each for each in before.values() if pid in (None, each.rule.leader.pid)]
    if pid is not None and not chosen:
        raise no_rule(pid, _pids(before.values()))
    live = {} if traffic is Traffic.OWN else _wait(chosen, seconds, base)
    lasted = False
    with ExitStack() as stack:
        own = _Own(stack, base, required=traffic is Traffic.OWN)
        for first in chosen:
            second = first if traffic is Traffic.OWN else live.get(first.rule.id)
            found = second and _verified(first, second, traffic, own)
            if found:
                lasted = True
                yield found
    if not lasted:
        raise _ended(chosen)


class _Own:
    """Transfers of ours, prepared when the first is needed; `note` says why there is none."""

    def __init__(self, stack: ExitStack, base: Path | None, *, required: bool) -> None:
        self._stack, self.base, self._required = stack, base, required
        self._transfer: OwnTransfer | None = None
        self.note: str | None = None

    def measure(self, rule_id: int, direction: Direction) -> Measured | None:
        """None also if it cannot be made."""
        if self.note is not None:
            return None
        # Only here: it takes pyroute2, and that 170 ms.
        from chadthrottle.limits.own_transfer import own_transfer

        try:
            if self._transfer is None:
                self._transfer = self._stack.enter_context(own_transfer(self.base))
            return self._transfer.measure(rule_id, direction)
        except ChadthrottleError as error:
            if self._required:
                raise
            self.note = error.message
            return None


def _verified(first: Sample, second: Sample, traffic: Traffic, own: _Own) -> Verified | None:
    """None if the rule ended meanwhile."""
    rule = second.rule
    directions: dict[Direction, Measured | None] = {}
    changed = False
    for direction in Direction:
        found = None if first is second else compare(first, second, direction, MeasuredBy.LIVE)
        open_yet = rule.rate(INDEX[direction]) and (found is None or found.verdict is Verdict.NOT_MEASURED)
        if open_yet and traffic is not Traffic.LIVE:
            found = own.measure(rule.id, direction) or found
        directions[direction] = found
        changed |= bool(rule.rate(INDEX[direction])) and found is None
    if traffic is not Traffic.LIVE and rule.id not in read_meters(own.base):
        return None
    process = ProcessIdentity(rule.leader.pid, rule.leader.start_ticks, rule.name)
    note = own.note and f"No own transfer: {own.note}"
    if changed and note is None:
        note = "The limit was changed while it was measured: try again."
    return Verified(process, directions, only_live=traffic is Traffic.LIVE, note=note)


def _wait(chosen: list[Sample], seconds: float, base: Path | None) -> dict[int, Sample]:
    """The meters after so many seconds; looks in steps, to notice when there is nothing left to measure."""
    until = time.monotonic() + seconds
    while True:
        time.sleep(max(0, min(_STEP_S, until - time.monotonic())))
        after = read_meters(base)
        if not any(each.rule.id in after for each in chosen):
            raise _ended(chosen)
        if time.monotonic() >= until:
            return after


def _ended(chosen: Iterable[Sample]) -> NoSuchProcessError:
    ended = ", ".join(map(str, _pids(chosen)))
    return NoSuchProcessError(f"the limit ended while it was measured (PID {ended})")


def _pids(samples: Iterable[Sample]) -> list[int]:
    return [each.rule.leader.pid for each in samples]
