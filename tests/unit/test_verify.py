"""What measurements say of a limit, and how long one of our own takes."""

import pytest

from chadthrottle.abi import ThrottleDirection, ThrottleMeter, ThrottleRule
from chadthrottle.enforce.rules import BURST_NS, Rule
from chadthrottle.limits.meters import Sample, compare
from chadthrottle.limits.own_transfer import plan
from chadthrottle.limits.verdict import Measured, MeasuredBy, Verdict, Verified
from chadthrottle.model import Direction, ProcessIdentity

PROGRAM = ProcessIdentity(4711, 100, "program")
SECOND = 1_000_000_000


def measured(achieved: int, carried: int | None = None, by: MeasuredBy = MeasuredBy.LIVE) -> Measured:
    return Measured(by, 1000, achieved, 0, 2.0, carried)


@pytest.mark.parametrize(
    ("achieved", "carried", "verdict"),
    [
        (0, None, "not_measured"),
        (849, None, "not_measured"),
        (850, None, "holds"),
        (1050, None, "holds"),
        (1051, None, "exceeded"),
        (849, 1249, "not_measured"),
        (849, 1250, "not_achieved"),
    ],
)
def test_verdict_of_a_direction(achieved: int, carried: int | None, verdict: str) -> None:
    assert measured(achieved, carried).verdict is Verdict(verdict)


@pytest.mark.parametrize(
    ("up", "down", "verdict", "verdict_if_only_live"),
    [
        (1000, None, "holds", "holds"),
        (1000, 1000, "holds", "holds"),
        (1000, 0, "not_measured", "holds"),
        (0, 0, "not_measured", "not_measured"),
        (2000, 0, "exceeded", "exceeded"),
        (1000, 2000, "exceeded", "exceeded"),
        (None, None, "not_measured", "not_measured"),
    ],
)
def test_verdict_of_a_rule(up: int | None, down: int | None, verdict: str, verdict_if_only_live: str) -> None:
    directions = {
        direction: None if achieved is None else measured(achieved)
        for direction, achieved in ((Direction.UP, up), (Direction.DOWN, down))
    }
    assert Verified(PROGRAM, directions, only_live=False).verdict is Verdict(verdict)
    assert Verified(PROGRAM, directions, only_live=True).verdict is Verdict(verdict_if_only_live)


def sample(passed: int, ahead_ns: int, at_ns: int, rate: int = 1000) -> Sample:
    rule, meter = ThrottleRule(), ThrottleMeter(base_ns=SECOND)
    rule.rate[ThrottleDirection.UP].bytes_per_s = rate
    meter.count[ThrottleDirection.UP].passed_bytes = passed
    meter.ahead_until[ThrottleDirection.UP] = (at_ns + ahead_ns - SECOND) * 256
    return Sample(Rule(1, rule, meter), at_ns)


@pytest.mark.parametrize(
    ("ahead_before", "ahead_after", "achieved"),
    [
        (0, 0, 1100),
        (0, BURST_NS, 1000),  # 200 of 2200 bytes are to be paid back
        (BURST_NS, BURST_NS, 1100),
        (BURST_NS, 0, 1100),  # what was paid back does not count as passed
        (0, 100 * BURST_NS, 900),  # charged without end, and let through
    ],
)
def test_burst_is_no_rate(ahead_before: int, ahead_after: int, achieved: int) -> None:
    first, second = sample(500, ahead_before, 10 * SECOND), sample(2700, ahead_after, 12 * SECOND)
    found = compare(first, second, Direction.UP, MeasuredBy.LIVE)
    assert found is not None
    assert (found.achieved_bytes_per_s, found.seconds) == (achieved, 2)


def test_limit_that_is_not_there_or_was_changed_is_not_compared() -> None:
    first, second = sample(0, 0, 10 * SECOND), sample(2000, 0, 12 * SECOND, rate=2000)
    assert compare(first, second, Direction.UP, MeasuredBy.LIVE) is None
    assert compare(first, first, Direction.DOWN, MeasuredBy.LIVE) is None


@pytest.mark.parametrize(
    ("rate", "mss", "seconds"), [(1000, 100, 10), (8000, 100, 3.5), (125_000, 1210, 2), (12_500_000_000, 1460, 2)]
)
def test_slow_limits_are_measured_longer_and_with_smaller_segments(rate: int, mss: int, seconds: float) -> None:
    planned = plan(rate)
    assert planned.mss == mss
    assert planned.seconds == pytest.approx(seconds, rel=1e-3)
