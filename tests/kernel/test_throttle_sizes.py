"""How long packets made by hand are on the wire, by what the judgement of ebpf/judge.bpf.h counts and charges.

Run by BPF_PROG_TEST_RUN in tests/objects/judge.bpf.c, which takes some 3 KB: larger buffers are told by gso_segs.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chadthrottle.abi import ThrottleDirection, ThrottleScope
from chadthrottle.bpf.loader import load
from chadthrottle.bpf.parse import open_object
from tests.support import packets
from tests.support.judged import BURST_NS, DROP, PASS, TICKS_PER_NS, Judge, Outcome, given
from tests.support.packets import ETH_P_ARP, extension, ipv4, ipv6, ipv6_fragment, jumbo, tcp, udp

BOTH = pytest.mark.parametrize("direction", ThrottleDirection)
PAYLOAD = bytes(2800)
OPTIONS = bytes([1] * 40)  # no-operation
FIRST, MIDDLE, LAST = 0x2000, 0x2000 | 185, 370  # more fragments; offset in units of 8 bytes
BURST_TICKS = BURST_NS * TICKS_PER_NS


@pytest.fixture
def judge(object_path: Callable[[str], Path]) -> Iterator[Judge]:
    with load(open_object(object_path("judge"))) as loaded:
        yield Judge(loaded)


def gre(behind: bytes) -> bytes:
    return bytes([0, 0, 0x08, 0]) + behind


WHOLE = {
    "TCP": ipv4(packets.TCP, tcp(PAYLOAD)),
    "options": ipv4(packets.TCP, tcp(PAYLOAD, header=60), options=OPTIONS),
    "first fragment": ipv4(packets.UDP, udp(PAYLOAD), fragment=FIRST),
    "middle fragment": ipv4(packets.UDP, PAYLOAD, fragment=MIDDLE),
    "last fragment": ipv4(packets.UDP, PAYLOAD[:99], fragment=LAST),
    "first fragment, TCP": ipv4(packets.TCP, tcp(PAYLOAD), fragment=FIRST),
    "middle fragment, TCP": ipv4(packets.TCP, PAYLOAD, fragment=MIDDLE),
    "UDP without data": ipv4(packets.UDP, udp()),
    "ICMP": ipv4(packets.ICMP, bytes([8, 0]) + bytes(62)),
    "ESP": ipv4(packets.ESP, PAYLOAD),
    "AH": ipv4(packets.AH, PAYLOAD),
    "GRE": ipv4(packets.GRE, gre(ipv4(packets.TCP, tcp(PAYLOAD)))),
    "unknown protocol": ipv4(253, PAYLOAD),
    "header alone": ipv4(packets.TCP, b""),
    "claims less": ipv4(packets.TCP, tcp(PAYLOAD), total=40),
    "claims more": ipv4(packets.TCP, tcp(PAYLOAD), total=65_535),
    "claims nothing": ipv4(packets.TCP, tcp(PAYLOAD), total=0),
    "IPv6 TCP": ipv6(packets.TCP, tcp(PAYLOAD)),
    "IPv6 UDP": ipv6(packets.UDP, udp(PAYLOAD)),
    "IPv6 ICMP": ipv6(packets.ICMPV6, bytes([128, 0]) + bytes(62)),
    "IPv6 hop-by-hop": ipv6(packets.HOP_BY_HOP, extension(packets.TCP) + tcp(PAYLOAD)),
    "IPv6 destination": ipv6(packets.DESTINATION, extension(packets.TCP) + tcp(PAYLOAD)),
    "IPv6 routing": ipv6(packets.ROUTING, extension(packets.UDP) + udp(PAYLOAD)),
    "IPv6 first fragment": ipv6(packets.FRAGMENT, ipv6_fragment(packets.TCP, 1) + tcp(PAYLOAD)),
    "IPv6 last fragment": ipv6(packets.FRAGMENT, ipv6_fragment(packets.TCP, 185 << 3) + PAYLOAD),
    "IPv6 ESP": ipv6(packets.ESP, PAYLOAD),
    "IPv6 AH": ipv6(packets.AH, extension(packets.TCP) + tcp(PAYLOAD)),
    "IPv6 unknown": ipv6(253, PAYLOAD),
    "IPv6 nothing follows": ipv6(packets.NO_NEXT, b""),
    "IPv6 claims less": ipv6(packets.TCP, tcp(PAYLOAD), payload=0),
    "IPv6 claims more": ipv6(packets.TCP, tcp(PAYLOAD), payload=65_535),
    "version 0": b"\x05" + ipv4(packets.TCP, tcp(PAYLOAD))[1:],
    "version 15": b"\xf5" + ipv6(packets.TCP, tcp(PAYLOAD))[1:],
    "IPv4 header of no words": b"\x40" + ipv4(packets.TCP, tcp(PAYLOAD))[1:],
}


@BOTH
def test_a_packet_in_one_piece_costs_its_length(direction: ThrottleDirection, judge: Judge) -> None:
    """Whatever is in it, and whatever length it claims."""
    for name, packet in WHOLE.items():
        assert judge.judge(given(), direction, packet) == Outcome.passed(1, len(packet)), name


# A buffer, its headers, and what of them is never sent.
CUT = {
    "TCP": (ipv4(packets.TCP, tcp(PAYLOAD)), 40, 0),
    "TCP, timestamps": (ipv4(packets.TCP, tcp(PAYLOAD, header=32)), 52, 0),
    "TCP, most options": (ipv4(packets.TCP, tcp(PAYLOAD, header=60), options=OPTIONS), 120, 0),
    "UDP": (ipv4(packets.UDP, udp(PAYLOAD)), 28, 0),
    "claims nothing": (ipv4(packets.TCP, tcp(PAYLOAD), total=0), 40, 0),  # as BIG TCP over IPv4 does
    "IPv6 TCP": (ipv6(packets.TCP, tcp(PAYLOAD, header=32)), 72, 0),
    "IPv6 UDP": (ipv6(packets.UDP, udp(PAYLOAD)), 48, 0),
    "IPv6 hop-by-hop": (ipv6(packets.HOP_BY_HOP, extension(packets.TCP) + tcp(PAYLOAD)), 68, 0),
    "IPv6 destination": (ipv6(packets.DESTINATION, extension(packets.TCP) + tcp(PAYLOAD)), 68, 0),
    "IPv6 routing": (ipv6(packets.ROUTING, extension(packets.TCP, bytes(22)) + tcp(PAYLOAD)), 84, 0),
    "IPv6 jumbo": (ipv6(packets.HOP_BY_HOP, extension(packets.TCP, jumbo(185_000)) + tcp(PAYLOAD), payload=0), 68, 8),
}


@BOTH
def test_a_buffer_costs_the_headers_of_all_its_segments(direction: ThrottleDirection, judge: Judge) -> None:
    """1 to 45, which is 64 KiB in segments of 1500; 128, as BIG TCP has; GSO_MAX_SEGS."""
    for (name, (packet, header, never_sent)), segments in itertools.product(CUT.items(), (*range(1, 46), 128, 65_535)):
        size = len(packet) if segments == 1 else len(packet) - never_sent + (segments - 1) * (header - never_sent)
        outcome = judge.judge(given(), direction, packet, segments=segments, segment_size=1448)
        assert outcome == Outcome.passed(segments, size), (name, segments)


@BOTH
def test_segments_are_counted_where_nobody_has(direction: ThrottleDirection, judge: Judge) -> None:
    """As buffers from tun and virtio may come: by the size of a segment."""
    packet, header, _ = CUT["TCP"]
    for segment_size in (1, 536, 1399, 1400, 1401, 2799, 2800, 2801, 65_535):
        segments = -(-len(PAYLOAD) // segment_size)
        outcome = judge.judge(given(), direction, packet, segment_size=segment_size)
        assert outcome == Outcome.passed(segments, len(packet) + (segments - 1) * header), segment_size


@BOTH
def test_every_data_offset_of_tcp(direction: ThrottleDirection, judge: Judge) -> None:
    """Below 5 words there is no TCP header: one packet."""
    for words in range(16):
        packet = ipv4(packets.TCP, tcp(PAYLOAD, data_offset=words))
        expected = (
            Outcome.passed(1, len(packet)) if words < 5 else Outcome.passed(3, len(packet) + 2 * (20 + 4 * words))
        )
        assert judge.judge(given(), direction, packet, segments=3, segment_size=1000) == expected, words


NOT_UNDERSTOOD = {
    "ESP": ipv4(packets.ESP, PAYLOAD),
    "GRE": ipv4(packets.GRE, gre(ipv4(packets.TCP, tcp(PAYLOAD)))),
    "ICMP": ipv4(packets.ICMP, PAYLOAD),
    "IPv4 header of no words": b"\x40" + ipv4(packets.TCP, tcp(PAYLOAD))[1:],
    "IPv6 fragment": ipv6(packets.FRAGMENT, ipv6_fragment(packets.TCP, 1) + tcp(PAYLOAD)),
    "IPv6 ESP": ipv6(packets.ESP, PAYLOAD),
    "IPv6 AH": ipv6(packets.AH, extension(packets.TCP) + tcp(PAYLOAD)),
    "IPv6 nothing follows": ipv6(packets.NO_NEXT, PAYLOAD),
    "IPv6 extension over the end": ipv6(packets.HOP_BY_HOP, bytes([packets.TCP, 255]) + PAYLOAD[:1000]),
    "IPv6 five extensions": ipv6(
        packets.DESTINATION, extension(packets.DESTINATION) * 4 + extension(packets.TCP) + tcp(PAYLOAD)
    ),
    "version 7": b"\x75" + ipv4(packets.TCP, tcp(PAYLOAD))[1:],
}


@BOTH
def test_a_buffer_that_is_not_understood_is_one_packet(direction: ThrottleDirection, judge: Judge) -> None:
    for name, packet in NOT_UNDERSTOOD.items():
        outcome = judge.judge(given(), direction, packet, segments=3, segment_size=1000)
        assert outcome == Outcome.passed(1, len(packet)), name


TRUNCATED = {
    "IPv4 TCP": (ipv4(packets.TCP, tcp(bytes(20), header=40)), 60),
    "IPv4 TCP, most options": (ipv4(packets.TCP, tcp(bytes(20), header=60), options=OPTIONS), 120),
    "IPv4 UDP, options": (ipv4(packets.UDP, udp(bytes(20)), options=OPTIONS), 68),
    "IPv6 TCP": (ipv6(packets.TCP, tcp(bytes(20))), 60),
    "IPv6 UDP, hop-by-hop": (ipv6(packets.HOP_BY_HOP, extension(packets.UDP) + udp(bytes(20))), 56),
}


@BOTH
def test_truncated_headers_pass(direction: ThrottleDirection, judge: Judge) -> None:
    """Every length up to 60 bytes and the end of the headers; in one piece, and as a buffer of two segments."""
    for name, (packet, header) in TRUNCATED.items():
        for length in range(max(60, header) + 1):
            part = packet[:length]
            whole = judge.judge(given(), direction, part, ethertype=ETH_P_ARP)
            assert whole == Outcome.passed(1, length), (name, length)
            cut = judge.judge(given(), direction, part, segments=2, segment_size=10, ethertype=ETH_P_ARP)
            expected = Outcome.passed(1, length) if length < header else Outcome.passed(2, length + header)
            assert cut == expected, (name, length)


@BOTH
def test_chance_never_faults(direction: ThrottleDirection, judge: Judge) -> None:
    """Random packets whose beginning leads somewhere: passed or dropped, counted once, charged what was counted."""
    chance = random.Random(20261123 + direction)
    for _ in range(400):
        packet = bytearray(chance.randbytes(chance.randint(1, 300)))
        packet[0] = chance.choice([packet[0], 0x45, 0x4F, 0x60])
        for place in (6, 9, 40):
            if len(packet) > place:
                packet[place] = chance.choice([packet[place], 0, 6, 17, 43, 44, 60])
        wanted = given(owed_ticks=chance.choice([-(10**9), 0, BURST_TICKS, 2 * BURST_TICKS, 1 << 50]))
        wanted.rule.scope = chance.choice(list(ThrottleScope))
        wanted.tag.known, wanted.tag.received_until = chance.choice([0, 2, 3]), chance.getrandbits(32)
        judge.given = wanted
        answer = judge.run(
            direction,
            bytes(packet),
            segments=chance.choice([0, 1, 2, 45, 65_535]),
            segment_size=chance.choice([0, 1, 536, 65_535]),
            ethertype=ETH_P_ARP,
        )
        count = judge.given.count(direction)
        assert answer.retval in (PASS, DROP[direction])
        assert answer.data[14:] == packet
        assert (count.dropped_packets > 0) == (answer.retval != PASS)
        assert not (count.passed_packets and count.dropped_packets)
        assert count.passed_bytes + count.dropped_bytes >= len(packet) or wanted.rule.scope
