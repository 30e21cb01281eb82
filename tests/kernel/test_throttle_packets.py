"""The arithmetic of ebpf/police.bpf.h and pace.bpf.h in the kernel; what throttle.bpf.o does with strangers' packets.

Function by function, through tests/objects/limits.bpf.c. Whole packets go through the whole judgement in
test_throttle_sizes.py, test_throttle_judgement.py, test_throttle_time.py and test_throttle_connection.py.
"""

import ctypes
import itertools
import random
import struct
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from chadthrottle.abi import ThrottleDirection, ThrottleMeter
from chadthrottle.bpf.loader import LoadedObject, load
from chadthrottle.bpf.parse import open_object

RATES = (1000, 1001, 32_000, 125_000, 1_250_000, 12_500_000, 125_000_000, 999_999_937, 1_250_000_000, 12_500_000_000)
SIZES = (40, 41, 64, 128, 1500, 9000, 65_536, 524_288, 4 << 20)
TICKS_PER_S = 256 * 10**9
PASS, OVER, FAR_OVER = range(3)  # enum police_verdict
AF_INET, AF_INET6 = 2, 10
MS = 1_000_000
GBIT = 125_000_000  # bytes/s
BURST_NS, RESERVE_NS = 200 * MS, 25 * MS
TIMES = 100
KEY = bytes(4)


class Reckoner:
    """tests/objects/limits.bpf.c, loaded."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._loaded = loaded

    def run(self, program: str, *numbers: int) -> None:
        assert self._loaded.programs[program].call(struct.pack("=5Q", *numbers, *[0] * (5 - len(numbers)))) == 0

    def __call__(self, program: str, *numbers: int) -> int:
        self.run(program, *numbers)
        return int.from_bytes(self._loaded.maps["answer"].lookup(KEY) or b"", "little")

    @property
    def meter(self) -> ThrottleMeter:
        return ThrottleMeter.from_buffer_copy(self._loaded.maps["meter"].lookup(KEY) or b"")

    @meter.setter
    def meter(self, meter: ThrottleMeter) -> None:
        self._loaded.maps["meter"].update(KEY, bytes(meter))


@pytest.fixture
def reckon(object_path: Callable[[str], Path]) -> Iterator[Reckoner]:
    with load(open_object(object_path("limits"))) as loaded:
        yield Reckoner(loaded)


def test_a_packet_costs_its_time_to_less_than_a_tick(reckon: Reckoner) -> None:
    for rate, size in itertools.product(RATES, SIZES):
        assert reckon("price", size, rate) == size * TICKS_PER_S // rate, (rate, size)


def test_rounding_is_no_error_of_the_rate(reckon: Reckoner) -> None:
    """The smallest packet at the highest rate: a thousandth of its price at most."""
    for rate in RATES:
        exact = Fraction(64 * TICKS_PER_S, rate)
        assert 0 <= 1 - reckon("price", 64, rate) / exact < Fraction(1, 1000)


def test_verdicts(reckon: Reckoner) -> None:
    now = 10**13 * 256
    for ahead_ns, size, verdict in (
        (-(10**12), 1500, PASS),
        (0, 4 << 20, PASS),  # larger than all the burst: judged by what came before
        (BURST_NS - 1, 1500, PASS),
        (BURST_NS, 1500, OVER),
        (2 * BURST_NS - 1, 1500, OVER),
        (2 * BURST_NS, 1500, FAR_OVER),
        (BURST_NS, 129, OVER),
        (BURST_NS, 128, PASS),
        (BURST_NS + RESERVE_NS - 1, 40, PASS),
        (BURST_NS + RESERVE_NS, 40, OVER),
        (10**13, 40, FAR_OVER),
    ):
        assert reckon("judge", BURST_NS, now + ahead_ns * 256, now, size) == verdict, (ahead_ns, size)


def next_share(share: int, limit: int, offered: int, ahead_ns: int, epoch_ns: int) -> int:
    """As in pace.bpf.h, in numbers that cannot overflow."""
    missing = 20 * MS - min(ahead_ns, 400 * MS)
    step = limit * (abs(missing) * 1024 // (8 * epoch_ns)) // 1024
    wanted = limit + step if missing > 0 else limit - step
    correction = min(max(wanted * 1024 // offered, 256), 3072) if offered else 3072
    most = 4 * limit if limit >= GBIT and offered > limit // 2 else limit + limit // 4
    return max(1, min(max(share * ((correction + 1024) // 2) // 1024, limit >> 10), most))


def test_the_next_share(reckon: Reckoner) -> None:
    for limit in RATES:
        shares = (1, limit >> 10 or 1, limit // 64, limit // 8, limit, limit + limit // 4, 4 * limit)
        offers = (0, 1, limit // 64, limit // 2, limit, limit + limit // 50, 3 * limit, 1000 * limit)
        for share, offered in itertools.product(shares, offers):
            for ahead_ns, epoch_ns in itertools.product((0, 20 * MS, 150 * MS, 10**13), (50 * MS, 1000 * MS)):
                numbers = (share, limit, offered, ahead_ns, epoch_ns)
                assert reckon("share", *numbers) == next_share(*numbers), numbers


def test_a_share_that_fits_stays(reckon: Reckoner) -> None:
    for limit in RATES:
        assert reckon("share", limit, limit, limit, 20 * MS, 50 * MS) == limit


def test_a_socket_whose_timer_is_late_gets_the_limit(reckon: Reckoner) -> None:
    """It sends half of what it may; one that then falls silent does not begin with a burst."""
    for limit in (rate for rate in RATES if rate >= GBIT):
        share, ahead_ns, epoch_ns, sent = limit, 0, 50 * MS, []
        for _ in range(100):
            sent.append(share // 2)
            ahead_ns = max(0, ahead_ns + epoch_ns * (sent[-1] - limit) // limit)
            share = reckon("share", share, limit, sent[-1], ahead_ns, epoch_ns)
        assert 0.98 < sum(sent[20:]) / len(sent[20:]) / limit < 1.02
        assert reckon("share", share, limit, limit // 10, 0, epoch_ns) <= limit + limit // 4


@pytest.mark.parametrize("sockets", [1, 8, 64, 512])
def test_shares_meet_the_limit(sockets: int, reckon: Reckoner) -> None:
    """Sockets that follow the share one epoch late, and a bucket: settled after 100 epochs, and without a drop."""
    for limit in (rate for rate in RATES if rate // sockets > 10_000):
        share, following, ahead_ns, epoch_ns = limit // sockets * 2, limit // sockets * 2, 0, 50 * MS
        for _ in range(100):
            offered = following * sockets
            ahead_ns = max(0, ahead_ns + epoch_ns * (offered - limit) // limit)
            following, share = share, reckon("share", share, limit, offered, ahead_ns, epoch_ns)
        assert 0.98 < share * sockets / limit < 1.02
        assert 0 < ahead_ns < BURST_NS


def test_pacing_leaves_room_for_headers(reckon: Reckoner) -> None:
    for share, (family, headers) in itertools.product(RATES, ((AF_INET, 52), (AF_INET6, 72))):
        expected = max(1, share * 1448 // (1448 + headers))
        assert reckon("pacing", share, 1448, family) == min(expected, 0xFFFF_FFFF)
        assert reckon("pacing", share, 0, family) == min(share, 0xFFFF_FFFF)


def test_windows(reckon: Reckoner) -> None:
    for share, mss, srtt in itertools.product(RATES, (0, 536, 1448, 65_483), (0, 8 * 100, 8 * 20_000, 0xFFFF_FFFF)):
        answer = reckon("window", share, mss, srtt)
        segments = share * (min(srtt, 8_000_000) // 4 + 8000) // 10**6 // (mss or 1)
        least = 2 if share < 65_536 else 4
        assert answer == (0x7FFF_FFFF if segments > 256 else max(segments, least))
        assert answer >= 2  # below that, nothing is ever sent in pairs and each acknowledgement is late


def test_epochs(reckon: Reckoner) -> None:
    assert [reckon("epoch", share) for share in (0, 1, 6000, 60_000, 125_000, 12_500_000_000)] == [
        1000 * MS,
        1000 * MS,
        1000 * MS,
        100 * MS,
        50 * MS,
        50 * MS,
    ]


def at_once(action: Callable[[int], None], threads: int = 2) -> None:
    started = [threading.Thread(target=action, args=(number,)) for number in range(threads)]
    for one in started:
        one.start()
    for one in started:
        one.join()


def test_no_charge_is_lost_or_made_twice(reckon: Reckoner) -> None:
    """Two threads; both pull the number up to now first, and one of them wins."""
    now, calls = 10**12, 2000
    for rate, size in ((12_500_000_000, 64), (125_000, 1500)):
        reckon.meter = ThrottleMeter()

        def charge(_: int, size: int = size, rate: int = rate) -> None:
            for _ in range(calls):
                reckon.run("charge", now, size, rate)

        at_once(charge)
        charged = 2 * calls * TIMES * (size * TICKS_PER_S // rate)
        assert reckon.meter.ahead_until[ThrottleDirection.UP] == now + charged


def test_no_byte_offered_is_lost(reckon: Reckoner) -> None:
    """As long as the epoch lasts."""
    reckon.meter = ThrottleMeter(epoch_ns=10**9, share=125_000)

    def offer(_: int) -> None:
        for _ in range(2000):
            reckon.run("offer", 125_000, 10**9 + 1, 1500, 0)

    at_once(offer)
    assert reckon.meter.epoch_bytes == 2 * 2000 * TIMES * 1500
    assert (reckon.meter.epoch_ns, reckon.meter.share) == (10**9, 125_000)


def test_many_epochs_from_two_threads(reckon: Reckoner) -> None:
    """Time goes forward in both, and not in step: one wins each epoch, and the share stays within its bounds."""
    limit, step_ns = 1_250_000, MS
    reckon.meter = ThrottleMeter(epoch_ns=10**9, share=limit)

    def offer(_: int) -> None:
        for call in range(500):
            reckon.run("offer", limit, 10**9 + call * TIMES * step_ns, 1250, step_ns)

    at_once(offer)
    assert limit >> 10 <= reckon.meter.share <= limit + limit // 4
    # The last epoch, which has not ended, is at most EPOCH_MOST_NS long: 1 s, at the least shares.
    end_ns = 10**9 + 500 * TIMES * step_ns
    assert end_ns - 1100 * MS < reckon.meter.epoch_ns < end_ns


@pytest.mark.parametrize("program", ["throttle_egress", "throttle_ingress"])
def test_untagged_packets_pass(program: str, object_path: Callable[[str], Path]) -> None:
    """Whatever they are: these programs may sit on the root."""
    chance = random.Random(20261123)
    with load(open_object(object_path("throttle"))) as loaded:
        for ether_type, version in ((0x0800, 0x45), (0x86DD, 0x60)):
            for _ in range(200):
                packet = bytes([version]) + chance.randbytes(chance.randint(60, 1500))
                answer = loaded.programs[program].test_run(bytes(12) + struct.pack(">H", ether_type) + packet)
                assert answer.retval == 1
        assert not list(loaded.maps["meters"].keys())


def test_the_meter_is_as_large_as_in_the_kernel(reckon: Reckoner) -> None:
    assert ctypes.sizeof(ThrottleMeter) == len(bytes(reckon.meter))
