"""The verdict of ebpf/judge.bpf.h on packets made by hand: scope, limit, mark, beginning and end of a rule.

Run by BPF_PROG_TEST_RUN in tests/objects/judge.bpf.c.
"""

import itertools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chadthrottle.abi import ThrottleDirection, ThrottleScope
from chadthrottle.bpf.loader import load
from chadthrottle.bpf.parse import open_object
from tests.support import packets
from tests.support.judged import (
    BURST_NS,
    DROP,
    NOW_NS,
    PASS,
    SMALL_RESERVE_NS,
    TICKS_PER_NS,
    Judge,
    Outcome,
    given,
)
from tests.support.packets import ETH_P_ARP, ipv4, ipv6, tcp, udp

UP, DOWN = ThrottleDirection
BOTH = pytest.mark.parametrize("direction", ThrottleDirection)
PAYLOAD = bytes(2800)
OPTIONS = bytes([1] * 40)  # no-operation
NOT_ECT, ECT_1, ECT_0, CE = range(4)
BURST_TICKS, RESERVE_TICKS = BURST_NS * TICKS_PER_NS, SMALL_RESERVE_NS * TICKS_PER_NS


@pytest.fixture
def judge(object_path: Callable[[str], Path]) -> Iterator[Judge]:
    with load(open_object(object_path("judge"))) as loaded:
        yield Judge(loaded)


@BOTH
def test_a_packet_without_an_address_is_no_matter_of_a_scope(direction: ThrottleDirection, judge: Judge) -> None:
    """Neither limited nor counted, as far as the address that is asked for is not there whole."""
    end_of_address = {4: 20 if direction is UP else 16, 6: 40 if direction is UP else 24}
    wanted = given(owed_ticks=10 * BURST_TICKS)
    wanted.rule.scope = ThrottleScope.INTERNET
    for packet in (ipv4(packets.TCP, tcp(bytes(40))), ipv6(packets.TCP, tcp(bytes(40)))):
        for length in range(61):
            outcome = judge.judge(wanted, direction, packet[:length], ethertype=ETH_P_ARP)
            if length < end_of_address[packet[0] >> 4]:
                assert outcome == Outcome(PASS), length
            else:
                assert outcome == Outcome.dropped(direction, 1, length), length
    for version in (0, 1, 3, 5, 7, 15):
        assert judge.judge(wanted, direction, bytes([version << 4]) + bytes(59), ethertype=ETH_P_ARP) == Outcome(PASS)


# fmt: off
LOCAL = [
    "0.0.0.0", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "127.0.0.1", "169.254.0.0",
    "169.254.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255", "224.0.0.1",
    "239.255.255.255", "255.255.255.255", "::", "::1", "::ffff:10.0.0.1", "fc00::", "fdff:ffff::1", "fe80::1",
    "febf:ffff::1", "ff02::1",
]
INTERNET = [
    "1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "169.253.255.255", "169.255.0.0",
    "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "223.255.255.255", "2001:4860:4860::8888",
    "::ffff:8.8.8.8", "fbff::1", "fe00::1", "fe7f:ffff::1", "fec0::1", "64:ff9b::808:808",
]
# fmt: on


@BOTH
def test_scopes(direction: ThrottleDirection, judge: Judge) -> None:
    """By the peer's address, on both sides of each boundary; our own address is no matter."""
    own = {socket.AF_INET: ("10.1.1.1", "8.8.8.8"), socket.AF_INET6: ("fd00::1", "2001:4860::1")}
    for text, which, scope in itertools.product(LOCAL + INTERNET, range(2), ThrottleScope):
        family = socket.AF_INET6 if ":" in text else socket.AF_INET
        make = ipv6 if ":" in text else ipv4
        ours, theirs = socket.inet_pton(family, own[family][which]), socket.inet_pton(family, text)
        source, destination = (ours, theirs) if direction is UP else (theirs, ours)
        packet = make(packets.UDP, udp(bytes(500)), source=source, destination=destination)
        wanted = given(owed_ticks=10 * BURST_TICKS)
        wanted.rule.scope = scope
        concerned = scope == ThrottleScope.ALL or (scope == ThrottleScope.LOCAL) == (text in LOCAL)
        expected = Outcome.dropped(direction, 1, len(packet)) if concerned else Outcome(PASS)
        assert judge.judge(wanted, direction, packet) == expected, (text, scope)


def sized(size: int, ecn: int = NOT_ECT) -> bytes:
    return ipv4(packets.UDP, udp(bytes(size - 28)), tos=ecn)


@BOTH
def test_verdicts_on_the_tick(direction: ThrottleDirection, judge: Judge) -> None:
    """Over the limit from the burst on, far over from twice that: there no mark helps. 128 bytes have a reserve."""
    for size, ecn in itertools.product((28, 128, 129, 1500), (NOT_ECT, ECT_0)):
        allowed = BURST_TICKS + (RESERVE_TICKS if size <= 128 else 0)
        for owed_ticks, over, far_over in (
            (allowed - 1, False, False),
            (allowed, True, False),
            (2 * allowed - 1, True, False),
            (2 * allowed, True, True),
            (1000 * allowed, True, True),
        ):
            outcome = judge.judge(given(owed_ticks=owed_ticks), direction, sized(size, ecn))
            markable = direction is DOWN and ecn == ECT_0 and not far_over
            expected = Outcome.passed(1, size, marked=int(over and markable))
            if over and not markable:
                expected = Outcome.dropped(direction, 1, size)
            assert outcome == expected, (size, owed_ticks / allowed, ecn)


@BOTH
def test_one_direction_alone(direction: ThrottleDirection, judge: Judge) -> None:
    """What is not limited is counted and not charged, however much is owed."""
    wanted = given(owed_ticks=100 * BURST_TICKS)
    wanted.rule.rate[direction].bytes_per_s = 0
    assert judge.judge(wanted, direction, sized(1500)) == Outcome(PASS, passed_packets=1, passed_bytes=1500)


def test_marks(judge: Judge) -> None:
    """Where ECN was negotiated, and the packet is otherwise as it was: IPv4's checksum is right again."""

    def as_ipv4(tos: int) -> bytes:
        return ipv4(packets.UDP, udp(bytes(1000)), tos=tos)

    def with_options(tos: int) -> bytes:
        return ipv4(packets.UDP, udp(bytes(1000)), tos=tos, options=OPTIONS)

    def as_ipv6(tos: int) -> bytes:
        return ipv6(packets.UDP, udp(bytes(1000)), traffic_class=tos)

    owed = given(owed_ticks=BURST_TICKS)
    for make, others, ecn in itertools.product((as_ipv4, with_options, as_ipv6), (0x00, 0xB8, 0xFC), range(4)):
        packet = make(others | ecn)
        judge.given = owed
        answer = judge.run(DOWN, packet)
        count = judge.given.count(DOWN)
        if ecn == NOT_ECT:
            assert (answer.retval, answer.data[14:], count.dropped_packets) == (DROP[DOWN], packet, 1)
        else:
            assert (answer.retval, answer.data[14:], count.marked_packets) == (PASS, make(others | CE), 1)
        assert judge.judge(given(), DOWN, packet) == Outcome.passed(1, len(packet))  # within the limit: no mark
        assert judge.judge(owed, UP, packet) == Outcome.dropped(UP, 1, len(packet))  # nor on egress


def test_a_marked_buffer_counts_as_its_segments(judge: Judge) -> None:
    packet = ipv4(packets.TCP, tcp(PAYLOAD), tos=ECT_1)
    outcome = judge.judge(given(owed_ticks=BURST_TICKS), DOWN, packet, segments=45, segment_size=1448)
    assert outcome == Outcome.passed(45, len(packet) + 44 * 40, marked=45)


@BOTH
def test_what_is_dropped_counts_as_its_segments(direction: ThrottleDirection, judge: Judge) -> None:
    packet = ipv4(packets.TCP, tcp(PAYLOAD))
    outcome = judge.judge(given(owed_ticks=BURST_TICKS), direction, packet, segments=45, segment_size=1448)
    assert outcome == Outcome.dropped(direction, 45, len(packet) + 44 * 40)


@BOTH
def test_before_the_rule_is_armed(direction: ThrottleDirection, judge: Judge) -> None:
    """Counted, not dropped and not held against it; on the nanosecond."""
    wanted = given(owed_ticks=BURST_TICKS)
    for armed_ns, armed in ((NOW_NS - 1, True), (NOW_NS, True), (NOW_NS + 1, False)):
        wanted.rule.armed_ns = armed_ns
        expected = Outcome.dropped(direction, 1, 1500) if armed else Outcome(PASS, passed_packets=1, passed_bytes=1500)
        assert judge.judge(wanted, direction, sized(1500)) == expected
    wanted = given()
    wanted.rule.armed_ns = NOW_NS + 1
    assert judge.judge(wanted, direction, sized(1500)).charged_ticks == 0


@BOTH
def test_the_end_of_a_rule(direction: ThrottleDirection, judge: Judge) -> None:
    """On the nanosecond; 0 is never."""
    wanted = given(owed_ticks=BURST_TICKS)
    for expires_ns, in_force in ((NOW_NS - 1, False), (NOW_NS, False), (NOW_NS + 1, True), (0, True), (1, False)):
        wanted.rule.expires_ns = expires_ns
        expected = Outcome.dropped(direction, 1, 1500) if in_force else Outcome(PASS)
        assert judge.judge(wanted, direction, sized(1500)) == expected


@BOTH
def test_udp_is_refused_without_end(direction: ThrottleDirection, judge: Judge) -> None:
    """The guard is for TCP, which dies of refusals."""
    judge.given = given(owed_ticks=BURST_TICKS)
    assert judge.run(direction, sized(1500), repeat=100).retval == DROP[direction]
    after = judge.given
    assert (after.count(direction).dropped_packets, after.count(direction).passed_packets) == (100, 0)
    assert after.tag.refused == 0
