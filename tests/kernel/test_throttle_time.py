"""The bucket of ebpf/police.bpf.h over time and on two CPUs, packet by packet through the whole judgement.

Run by BPF_PROG_TEST_RUN in tests/objects/judge.bpf.c: the clock is a number that each packet moves on.
"""

import os
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from chadthrottle.abi import ThrottleDirection
from chadthrottle.bpf.loader import load
from chadthrottle.bpf.parse import open_object
from tests.support import packets
from tests.support.judged import (
    BASE_NS,
    BURST_NS,
    DROP,
    MS,
    NOW_NS,
    PASS,
    SMALL_RESERVE_NS,
    TICKS_PER_NS,
    Given,
    Judge,
    Outcome,
    S,
    given,
    price_ticks,
)
from tests.support.packets import ipv4, tcp, udp

UP, DOWN = ThrottleDirection
BOTH = pytest.mark.parametrize("direction", ThrottleDirection)
SLOWEST, FASTEST = 1000, 12_500_000_000  # bytes/s
LAST_NS = BASE_NS + (1 << 64) // TICKS_PER_NS - 1  # 834 days after the rule was made


@pytest.fixture
def judge(object_path: Callable[[str], Path]) -> Iterator[Judge]:
    with load(open_object(object_path("judge"))) as loaded:
        yield Judge(loaded)


def sized(size: int) -> bytes:
    return ipv4(packets.UDP, udp(bytes(size - 28)))


@BOTH
def test_a_new_rule_owes_nothing(direction: ThrottleDirection, judge: Judge) -> None:
    """A packet of the nanosecond in which the rule was made, and the next."""
    for later_ns in (0, 1):
        assert judge.judge(given(now_ns=BASE_NS + later_ns), direction, sized(1500)) == Outcome.passed(1, 1500)


@BOTH
def test_a_clock_that_is_behind_the_rule(direction: ThrottleDirection, judge: Judge) -> None:
    """As in another time namespace, or on a CPU that is a moment late: owed is that moment, and nothing later."""
    for behind_ns in (1, MS, BURST_NS - 1, 400 * 86_400 * S):
        wanted = given()
        wanted.meter.base_ns = wanted.now_ns + behind_ns
        wanted.meter.ahead_until[direction] = 0
        judge.given = wanted
        assert judge.run(direction, sized(1500)).retval == PASS
        after = judge.given
        after.now_ns = after.meter.base_ns + S
        judge.given = after
        assert judge.run(direction, sized(1500)).retval == PASS
        assert judge.given.owed_ticks(direction) == price_ticks(1500)


@BOTH
def test_the_clock_goes_round(direction: ThrottleDirection, judge: Judge) -> None:
    """After 834 days: what was owed before is owed after, and no more."""
    owing = given(now_ns=LAST_NS, owed_ticks=(BURST_NS + 2) * TICKS_PER_NS)
    for later_ns, verdict in ((0, DROP[direction]), (2, DROP[direction]), (3, PASS), (3 + 24 * MS, PASS)):
        owing.now_ns = LAST_NS + later_ns
        judge.given = owing
        assert judge.run(direction, sized(1500)).retval == verdict, later_ns
    idle = given(now_ns=LAST_NS)
    idle.now_ns += 100 * 86_400 * S
    judge.given = idle
    assert judge.run(direction, sized(1500)).retval == PASS
    assert judge.given.owed_ticks(direction) == price_ticks(1500)


@BOTH
def test_what_is_saved_up(direction: ThrottleDirection, judge: Judge) -> None:
    """Nothing, however long the rule was idle; only 834 days look like the one day that can be owed."""
    for now_ns in (NOW_NS, BASE_NS + 400 * 86_400 * S, LAST_NS - 86_400 * S):
        wanted = given(now_ns=now_ns)
        wanted.meter.ahead_until[direction] = 0
        judge.given = wanted
        assert judge.run(direction, sized(1500)).retval == PASS
        assert judge.given.owed_ticks(direction) == price_ticks(1500)


@BOTH
def test_a_clock_that_is_behind(direction: ThrottleDirection, judge: Judge) -> None:
    """Another CPU was here a moment later: its charge counts, and nothing else is owed for it."""
    for behind_ns in (1, 1000, MS):
        wanted = given()
        judge.given = wanted
        judge.run(direction, sized(1500))
        after = judge.given
        after.now_ns -= behind_ns
        judge.given = after
        assert judge.run(direction, sized(1500)).retval == PASS
        assert judge.given.meter.ahead_until[direction] - wanted.meter.ahead_until[direction] == 2 * price_ticks(1500)


@BOTH
def test_the_debt_of_one_buffer_is_paid_back(direction: ThrottleDirection, judge: Judge) -> None:
    """64 KiB at 8 kbit/s: 65.536 s, and packets are refused until the burst's length before that, on the nanosecond."""
    buffer, size = ipv4(packets.TCP, tcp(bytes(2980), header=32)), 65_536
    segments = 1 + (size - len(buffer)) // 52
    assert len(buffer) + (segments - 1) * 52 == size
    wanted = given(rate=SLOWEST)
    first = judge.judge(wanted, direction, buffer, segments=segments, segment_size=1448)
    assert first == Outcome.passed(segments, size, rate=SLOWEST)
    assert first.charged_ticks == 65_536 * MS * TICKS_PER_NS
    owing = judge.given
    for later_ns, size, verdict in (
        (0, 1500, DROP[direction]),
        (65_536 * MS - BURST_NS - 1, 1500, DROP[direction]),
        (65_536 * MS - BURST_NS, 1500, DROP[direction]),
        (65_536 * MS - BURST_NS + 1, 1500, PASS),
        (65_536 * MS - BURST_NS - SMALL_RESERVE_NS, 128, DROP[direction]),
        (65_536 * MS - BURST_NS - SMALL_RESERVE_NS + 1, 128, PASS),
    ):
        owing.now_ns = wanted.now_ns + later_ns
        judge.given = owing
        assert judge.run(direction, sized(size)).retval == verdict, (later_ns, size)
    owing.now_ns = wanted.now_ns + 65_536 * MS
    assert owing.owed_ticks(direction) == 0


# bytes/s, the size of a packet, and after how many ns the next one comes.
OFFERS = (
    (SLOWEST, 1500, MS),
    (SLOWEST, 40, MS),
    (125_000_000, 1500, 5000),
    (FASTEST, 64, 2),
    (FASTEST, 1500, 50),
)


@BOTH
def test_no_drift(direction: ThrottleDirection, judge: Judge) -> None:
    """10^6 packets, more than the rate: what passes is the rate, and 1 in 1310 more at most, to one packet.

    From a bucket that is full, by exact reckoning of what is due.
    """
    number = 10**6
    for rate, size, step_ns in OFFERS:
        allowed_ns = BURST_NS + (SMALL_RESERVE_NS if size <= 128 else 0)
        wanted = given(rate=rate, owed_ticks=allowed_ns * TICKS_PER_NS)
        wanted.step_ns = step_ns
        judge.given = wanted
        judge.run(direction, sized(size), repeat=number)
        after = judge.given
        assert after.now_ns == wanted.now_ns + number * step_ns
        count = after.count(direction)
        assert count.passed_packets + count.dropped_packets == number
        assert (count.passed_bytes, count.dropped_bytes) == (count.passed_packets * size, count.dropped_packets * size)
        charged = int(after.meter.ahead_until[direction]) - int(wanted.meter.ahead_until[direction])
        assert charged == count.passed_packets * price_ticks(size, rate)

        due = Fraction(number * step_ns * rate, S * size)  # packets
        assert number > 1.5 * due
        assert -1 <= count.passed_packets - due <= due / 1310 + 1


@BOTH
def test_below_the_rate_nothing_is_dropped(direction: ThrottleDirection, judge: Judge) -> None:
    """A packet when the one before it is paid, to the nanosecond, from an empty bucket: none is ever ahead."""
    wanted = given(rate=FASTEST)
    wanted.step_ns = 120  # 1500 bytes
    judge.given = wanted
    judge.run(direction, sized(1500), repeat=100_000)
    after = judge.given
    assert (after.count(direction).passed_packets, after.count(direction).dropped_packets) == (100_000, 0)
    assert after.owed_ticks(direction) == 0


def on_two_cpus(action: Callable[[], object]) -> None:
    """Threads of their own, each on a CPU of its own."""
    cpus = sorted(os.sched_getaffinity(0))
    assert len(cpus) > 1
    ready = threading.Barrier(2)

    def run(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        ready.wait()
        action()

    threads = [threading.Thread(target=run, args=(cpu,)) for cpu in cpus[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


PARALLEL = 200_000


@BOTH
def test_two_cpus_lose_nothing(direction: ThrottleDirection, judge: Judge) -> None:
    """Every packet is charged and counted, once."""
    wanted = given(rate=FASTEST, burst_ns=10 * S)
    judge.given = wanted
    on_two_cpus(lambda: judge.run(direction, sized(64), repeat=PARALLEL))
    after = judge.given
    assert after.owed_ticks(direction) == 2 * PARALLEL * price_ticks(64, FASTEST)
    count = after.count(direction)
    assert (count.passed_packets, count.passed_bytes) == (2 * PARALLEL, 2 * PARALLEL * 64)
    assert count.window_bytes == 2 * PARALLEL * 64
    if direction is UP:
        assert after.meter.epoch_bytes == 2 * PARALLEL * 64


@BOTH
def test_two_cpus_pass_what_is_due(direction: ThrottleDirection, judge: Judge) -> None:
    """Over the limit, while time goes on: what both judged in the same moment is charged, so the rate holds."""
    rate, size, step_ns = 125_000_000, 1500, 3000
    wanted = given(rate=rate, owed_ticks=BURST_NS * TICKS_PER_NS)
    wanted.step_ns = step_ns
    judge.given = wanted
    on_two_cpus(lambda: judge.run(direction, sized(size), repeat=PARALLEL))
    after, count = judge.given, judge.given.count(direction)
    assert after.now_ns == wanted.now_ns + 2 * PARALLEL * step_ns
    assert count.passed_packets + count.dropped_packets == 2 * PARALLEL
    charged = int(after.meter.ahead_until[direction]) - int(wanted.meter.ahead_until[direction])
    assert charged == count.passed_packets * price_ticks(size, rate)
    due = 2 * PARALLEL * step_ns * rate / S / size
    assert abs(count.passed_packets - due) <= 2


def measured(judge: Judge, direction: ThrottleDirection, wanted: Given) -> int:
    judge.given = wanted
    judge.run(direction, sized(1500))
    return int(judge.given.count(direction).bytes_per_s)


@BOTH
def test_the_measurement(direction: ThrottleDirection, judge: Judge) -> None:
    """Over a second at least; a packet of a CPU whose clock is behind does not end one that has just begun."""
    wanted = given()
    count = wanted.count(direction)
    count.window_bytes, count.bytes_per_s = 123_500, 77
    for age_ns, found in ((S - 1, 77), (S, 125_000), (2 * S, 62_500), (0, 77)):
        count.window_ns = wanted.now_ns - age_ns
        assert measured(judge, direction, wanted) == found, age_ns
    for ahead_ns in (1, MS):
        count.window_ns = wanted.now_ns + ahead_ns
        assert measured(judge, direction, wanted) == 77
        assert judge.given.count(direction).window_ns == wanted.now_ns + ahead_ns
