"""tests/objects/judge.bpf.c: the judgement of ebpf/judge.bpf.h, with rule, meter, tag and time as a test wants them."""

import ctypes
from dataclasses import dataclass

from chadthrottle.abi import ThrottleCount, ThrottleDirection, ThrottleMeter, ThrottleRule, ThrottleTag
from chadthrottle.bpf.loader import LoadedObject
from chadthrottle.bpf.programs import TestRun
from tests.support.packets import SkBuff, frame

MS = 1_000_000
S = 1000 * MS
TICKS_PER_NS = 256
SMALL_BYTES, SMALL_RESERVE_NS = 128, 25 * MS
RATE, BURST_NS = 125_000, 200 * MS
BASE_NS, NOW_NS = 10**12, 10**12 + 3600 * S

# What the programs return.
DROP_INGRESS, PASS, DROP_EGRESS, PASS_SLOWER = range(4)
DROP = {ThrottleDirection.UP: DROP_EGRESS, ThrottleDirection.DOWN: DROP_INGRESS}
PROGRAMS = {ThrottleDirection.UP: "egress", ThrottleDirection.DOWN: "ingress"}
_KEY = bytes(4)


class Given(ctypes.Structure):
    """struct given."""

    _fields_ = (
        ("rule", ThrottleRule),
        ("meter", ThrottleMeter),
        ("tag", ThrottleTag),
        ("now_ns", ctypes.c_uint64),
        ("step_ns", ctypes.c_uint64),
        ("connection", ctypes.c_uint8 * 12),
        ("padding", ctypes.c_uint32),
    )

    rule: ThrottleRule
    meter: ThrottleMeter
    tag: ThrottleTag
    now_ns: int
    step_ns: int
    connection: "ctypes.Array[ctypes.c_uint8]"

    def owed_ticks(self, direction: ThrottleDirection) -> int:
        """How far ahead of its rate the rule is now; negative when it is behind."""
        owed = int(self.meter.ahead_until[direction]) - (self.now_ns - self.meter.base_ns) * TICKS_PER_NS
        return (owed + (1 << 63)) % (1 << 64) - (1 << 63)  # the number goes round after 834 days

    def count(self, direction: ThrottleDirection) -> ThrottleCount:
        count = self.meter.count[direction]
        assert isinstance(count, ThrottleCount)
        return count


def given(*, rate: int = RATE, burst_ns: int = BURST_NS, owed_ticks: int = 0, now_ns: int = NOW_NS) -> Given:
    """A rule of both directions, an hour old, armed from its beginning; `rate` in bytes/s."""
    made = Given(now_ns=now_ns)
    made.meter.base_ns = BASE_NS
    made.meter.share = rate
    made.meter.epoch_ns = now_ns
    for direction in ThrottleDirection:
        made.rule.rate[direction].bytes_per_s = rate
        made.rule.rate[direction].burst_ns = burst_ns
        made.meter.ahead_until[direction] = (now_ns - BASE_NS) * TICKS_PER_NS + owed_ticks
        made.meter.count[direction].window_ns = now_ns
    return made


def price_ticks(size: int, rate: int = RATE) -> int:
    """What so many bytes cost (police_price(), without its limits)."""
    return size * S * TICKS_PER_NS // rate


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the program returned, and what it added to the counters of its direction."""

    verdict: int
    passed_packets: int = 0
    passed_bytes: int = 0
    dropped_packets: int = 0
    dropped_bytes: int = 0
    marked_packets: int = 0
    charged_ticks: int = 0

    @classmethod
    def passed(cls, packets: int, size: int, *, rate: int = RATE, marked: int = 0) -> "Outcome":
        return cls(PASS, packets, size, marked_packets=marked, charged_ticks=price_ticks(size, rate))

    @classmethod
    def dropped(cls, direction: ThrottleDirection, packets: int, size: int) -> "Outcome":
        return cls(DROP[direction], dropped_packets=packets, dropped_bytes=size)


class Judge:
    """The object, loaded and not attached."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._loaded = loaded

    @property
    def given(self) -> Given:
        return Given.from_buffer_copy(self._loaded.maps["given"].lookup(_KEY) or b"")

    @given.setter
    def given(self, wanted: Given) -> None:
        self._loaded.maps["given"].update(_KEY, bytes(wanted))

    def run(
        self,
        direction: ThrottleDirection,
        packet: bytes,
        *,
        segments: int = 0,
        segment_size: int = 0,
        repeat: int = 1,
        ethertype: int | None = None,
        connection: bool = False,
    ) -> TestRun:
        """One packet, or the same again and again; for the TCP socket in `given.connection` if asked."""
        program = ("connection_" if connection else "") + PROGRAMS[direction]
        context = bytes(SkBuff(gso_segs=segments, gso_size=segment_size))
        return self._loaded.programs[program].test_run(frame(packet, ethertype), context, repeat=repeat)

    def judge(
        self,
        wanted: Given,
        direction: ThrottleDirection,
        packet: bytes,
        *,
        segments: int = 0,
        segment_size: int = 0,
        ethertype: int | None = None,
        connection: bool = False,
    ) -> Outcome:
        """Of one packet, under what is wanted. The other direction has no part in it; no packet changes unmarked."""
        self.given = wanted
        answer = self.run(
            direction,
            packet,
            segments=segments,
            segment_size=segment_size,
            ethertype=ethertype,
            connection=connection,
        )
        after = self.given
        other = ThrottleDirection(1 - direction)
        assert bytes(after.count(other)) == bytes(wanted.count(other))
        assert after.meter.ahead_until[other] == wanted.meter.ahead_until[other]
        count = after.count(direction)
        if not count.marked_packets:
            assert answer.data[14:] == packet
        return Outcome(
            verdict=answer.retval,
            passed_packets=count.passed_packets,
            passed_bytes=count.passed_bytes,
            dropped_packets=count.dropped_packets,
            dropped_bytes=count.dropped_bytes,
            marked_packets=count.marked_packets,
            charged_ticks=int(after.meter.ahead_until[direction]) - int(wanted.meter.ahead_until[direction]),
        )
