"""Many processes and sockets, rules that come and go: nothing is left over, every counter adds up (tools/stress)."""

from dataclasses import replace

import pytest

from tests.support.objects import built_objects
from tools.stress.audit import BUFFER_BYTES, CPUS, Look, Way, compare
from tools.stress.commands import Asked
from tools.stress.run import stress

pytestmark = pytest.mark.long

SECONDS, SEED = 3, 20261123
S, MS = 10**9, 10**6
RATE = 1_000_000
ID, PID = 1, 4711


def test_the_books_balance() -> None:
    """`invoke stress` is the same for a minute."""
    built_objects("throttle")
    result = stress(SECONDS, SEED)
    print(result.figures, *result.violations, sep="\n")
    assert result.violations == []
    assert result.figures["sockets"] >= 1000
    # It was a stress.
    assert result.figures["commands"] > 30
    assert result.figures["rules"] > 32


# The audit sees what it is for


def look(at_ns: int, *, until_ns: int, passed: int, dropped: int = 0, rate: int = RATE) -> Look:
    """Of a rule made at 0."""
    way = Way(rate, until_ns * 256, passed // 1000, passed, dropped, dropped * 1000, 0)
    return Look(at_ns, at_ns, ID, PID, 0, True, (way, way))


# A rule in use is ahead by its burst; in a second a megabyte passes.
BEFORE = look(S, until_ns=S + 200 * MS, passed=10 * RATE)
AFTER = look(2 * S, until_ns=2 * S + 200 * MS, passed=11 * RATE)


def test_an_exact_limit_is_fine() -> None:
    assert compare([BEFORE, AFTER], []) == []


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (look(2 * S, until_ns=2 * S + 200 * MS, passed=10 * RATE - 1), "passed_bytes went from"),
        (look(2 * S, until_ns=S, passed=11 * RATE), "until_ticks went from"),
        # The counters say that more has passed than was paid for.
        (look(2 * S, until_ns=2 * S + 200 * MS, passed=11 * RATE + CPUS * BUFFER_BYTES + 1000), "ticks were charged"),
        # All of it was paid for, and should not have passed.
        (look(2 * S, until_ns=2 * S + 400 * MS + CPUS * 80 * MS, passed=RATE * 113 // 10), "ahead of"),
    ],
)
def test_what_is_wrong_is_said(after: Look, said: str) -> None:
    assert any(said in each for each in compare([BEFORE, after], []))


def test_a_rate_that_was_higher_meanwhile_explains_more() -> None:
    asked = Asked(S + 100 * MS, S + 200 * MS, PID, (10 * RATE, 10 * RATE))
    after = look(2 * S, until_ns=2 * S + 200 * MS, passed=15 * RATE)
    assert compare([BEFORE, after], []) != []
    assert compare([BEFORE, after], [asked]) == []
    assert compare([BEFORE, after], [replace(asked, pid=PID + 1)]) != []


def test_connections_that_would_have_died_explain_more() -> None:
    until_ns = 2 * S + 300 * MS + CPUS * 80 * MS
    assert compare([BEFORE, look(2 * S, until_ns=until_ns, passed=11 * RATE)], []) != []
    assert compare([BEFORE, look(2 * S, until_ns=until_ns, passed=11 * RATE, dropped=14)], []) == []
