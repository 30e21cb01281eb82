"""ebpf/traffic.bpf.c on packets made by hand, run without attaching (BPF_PROG_TEST_RUN).

Whatever comes, the packet passes; what is no TCP or UDP cut into segments counts as one packet, and
a GSO buffer that was not understood as an error besides.
"""

import ctypes
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from chadthrottle.abi import TrafficCount, TrafficDirection
from chadthrottle.bpf.loader import LoadedObject, load
from chadthrottle.bpf.parse import open_object
from tests.support.network import Endpoint

PASS = 1
DIRECTIONS = {"count_egress": TrafficDirection.EGRESS, "count_ingress": TrafficDirection.INGRESS}

# include/uapi/linux/if_ether.h
ETH_P_IP, ETH_P_IPV6, ETH_P_ARP = 0x0800, 0x86DD, 0x0806
# What a test run takes for these at least; of others it takes any length. The programs do not look at the type.
SHORTEST = {ETH_P_IP: 20, ETH_P_IPV6: 40, ETH_P_ARP: 1}
# Protocol numbers, as in the headers.
HOP_BY_HOP, TCP, UDP, ROUTING, FRAGMENT, ESP, DESTINATION = 0, 6, 17, 43, 44, 50, 60
JUMBO = bytes([194, 4]) + (100_000).to_bytes(4, "big")
PAD = bytes([1, 4, 0, 0, 0, 0])

PAYLOAD = bytes(3000)


class SkBuff(ctypes.Structure):
    """The members of struct __sk_buff (include/uapi/linux/bpf.h) that a test run takes, in their places."""

    _fields_ = (
        ("_start", ctypes.c_uint32 * 10),
        ("ifindex", ctypes.c_uint32),
        ("_middle", ctypes.c_uint32 * 30),
        ("gso_segs", ctypes.c_uint32),
        ("_sk", ctypes.c_uint64),
        ("gso_size", ctypes.c_uint32),
        ("_end", ctypes.c_uint32 * 3),
    )


assert (SkBuff.ifindex.offset, SkBuff.gso_segs.offset, SkBuff.gso_size.offset) == (40, 164, 176)


class Counted(NamedTuple):
    """The growth of a struct traffic_count."""

    packets: int
    ip_bytes: int
    wire_bytes: int
    errors: int


class Case(NamedTuple):
    """A packet from its IP header on, and what is to be counted."""

    packet: bytes
    counted: Counted
    segments: int = 3
    segment_size: int = 1000


class Machine:
    """The object, loaded and not attached, in a namespace with a device that is not loopback."""

    def __init__(self, loaded: LoadedObject, ifindex: int) -> None:
        self._loaded = loaded
        self._ifindex = ifindex

    def run(self, program: str, packet: bytes, segments: int, size: int, *, ether_type: int | None = None) -> Counted:
        """The verdict is always the same; what was counted for the one direction, and nothing for the other."""
        if ether_type is None:
            ether_type = {4: ETH_P_IP, 6: ETH_P_IPV6}.get(packet[0] >> 4, ETH_P_ARP)
        before = self._read()
        context = bytes(SkBuff(ifindex=self._ifindex, gso_segs=segments, gso_size=size))
        frame = bytes(12) + struct.pack(">H", ether_type) + packet
        answer = self._loaded.programs[program].test_run(frame, context)
        assert answer.retval == PASS
        assert answer.data == bytes(14) + packet  # the link header is not the program's, and comes back as zeros
        growth = {
            direction: Counted(*(new - old for old, new in zip(before[direction], after, strict=True)))
            for direction, after in self._read().items()
        }
        counted = growth.pop(DIRECTIONS[program])
        assert list(growth.values()) == [Counted(0, 0, 0, 0)]
        return counted

    def _read(self) -> dict[TrafficDirection, Counted]:
        values = self._loaded.maps["traffic"]
        found = {each: TrafficCount.total(values.lookup_percpu(each.key) or ()) for each in TrafficDirection}
        return {each: Counted(t.packets, t.ip_bytes, t.wire_bytes, t.errors) for each, t in found.items()}


@pytest.fixture
def machine(object_path: Callable[[str], Path], netns_pair: tuple[Endpoint, Endpoint]) -> Iterator[Machine]:
    with ExitStack() as stack:
        stack.enter_context(netns_pair[0].entered())
        yield Machine(stack.enter_context(load(open_object(object_path("traffic")))), netns_pair[0].ifindex)


def ipv4(protocol: int, behind: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    words = 5 + len(options) // 4
    total = 4 * words + len(behind)
    fields = struct.pack(">BBHHHBBH", 0x40 | words, 0, total, 0, fragment, 64, protocol, 0)
    return fields + bytes(8) + options + behind


def ipv6(protocol: int, behind: bytes) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(behind), protocol, 64) + bytes(32) + behind


def extension(following: int, content: bytes = PAD) -> bytes:
    """A hop-by-hop, routing or destination header."""
    assert len(content) % 8 == 6
    return bytes([following, (len(content) - 6) // 8]) + content


def tcp(length: int = 32) -> bytes:
    return bytes(12) + bytes([length // 4 << 4]) + bytes(7) + bytes(max(0, length - 20)) + PAYLOAD


def udp() -> bytes:
    return struct.pack(">HHHH", 1, 2, 8 + len(PAYLOAD), 0) + PAYLOAD


def cut(packet: bytes, header: int, *, never_sent: int = 0) -> Counted:
    """Three segments, each with that header."""
    return Counted(3, len(packet), len(packet) - never_sent + 2 * (header - never_sent), 0)


def understood(packet: bytes, header: int, *, segments: int = 3, never_sent: int = 0) -> Case:
    return Case(packet, cut(packet, header, never_sent=never_sent), segments)


def whole(packet: bytes) -> Case:
    """No GSO: what is inside does not matter."""
    return Case(packet, Counted(1, len(packet), len(packet), 0), 0, 0)


def refused(packet: bytes) -> Case:
    """A GSO buffer of which nobody knows how it is cut."""
    return Case(packet, Counted(1, len(packet), len(packet), 1))


FIVE_EXTENSIONS = extension(DESTINATION) * 4

CASES = {
    "IPv4 TCP": understood(ipv4(TCP, tcp()), 20 + 32),
    "IPv4 TCP, segments unknown": understood(ipv4(TCP, tcp()), 20 + 32, segments=0),
    "IPv4 TCP, shortest header": understood(ipv4(TCP, tcp(20)), 20 + 20),
    "IPv4 TCP, longest header": understood(ipv4(TCP, tcp(60)), 20 + 60),
    "IPv4 TCP, options": understood(ipv4(TCP, tcp(), options=bytes(8)), 28 + 32),
    "IPv4 TCP, most options": understood(ipv4(TCP, tcp(60), options=bytes(40)), 60 + 60),
    "IPv4 UDP": understood(ipv4(UDP, udp()), 20 + 8),
    "IPv4 UDP, options": understood(ipv4(UDP, udp(), options=bytes(4)), 24 + 8),
    "IPv6 TCP": understood(ipv6(TCP, tcp()), 40 + 32),
    "IPv6 TCP, segments unknown": understood(ipv6(TCP, tcp()), 40 + 32, segments=0),
    "IPv6 UDP": understood(ipv6(UDP, udp()), 40 + 8),
    "IPv6 hop-by-hop": understood(ipv6(HOP_BY_HOP, extension(TCP) + tcp()), 48 + 32),
    "IPv6 hop-by-hop of 24 bytes": understood(ipv6(HOP_BY_HOP, extension(TCP, PAD + bytes(16)) + tcp()), 64 + 32),
    "IPv6 routing": understood(ipv6(ROUTING, extension(UDP) + udp()), 48 + 8),
    "IPv6 destination options": understood(ipv6(DESTINATION, extension(TCP) + tcp()), 48 + 32),
    "IPv6 four extensions": understood(
        ipv6(HOP_BY_HOP, extension(DESTINATION) + extension(ROUTING) + extension(DESTINATION) + extension(TCP) + tcp()),
        72 + 32,
    ),
    "IPv6 jumbo": understood(ipv6(HOP_BY_HOP, extension(TCP, JUMBO) + tcp()), 48 + 32, never_sent=8),
    "IPv6 jumbo, segments unknown": understood(
        ipv6(HOP_BY_HOP, extension(TCP, JUMBO) + tcp()), 48 + 32, segments=0, never_sent=8
    ),
    "IPv4 TCP in one piece": whole(ipv4(TCP, tcp())),
    "IPv4 fragment": whole(ipv4(UDP, udp(), fragment=0x2000 | 185)),
    "IPv6 fragment": whole(ipv6(FRAGMENT, bytes([UDP, 0, 0, 1, 0, 0, 0, 1]) + udp())),
    "IPv4 ESP": whole(ipv4(ESP, PAYLOAD)),
    "IPv4 one segment": Case(ipv4(TCP, tcp()), Counted(1, 3052, 3052, 0), 1, 4000),
    "no payload, segments unknown": Case(ipv4(TCP, tcp()[:32]), Counted(1, 52, 52, 0), 0, 1000),
    "refused: IPv4 ESP": refused(ipv4(ESP, PAYLOAD)),
    "refused: IPv4 header too short": refused(b"\x41" + ipv4(TCP, tcp())[1:]),
    "refused: TCP header too short": refused(ipv4(TCP, tcp(16))),
    "refused: TCP header cut off": refused(ipv4(TCP, tcp()[:8])),
    "refused: TCP options cut off": refused(ipv4(TCP, tcp(60)[:40])),
    "refused: UDP header cut off": refused(ipv4(UDP, udp()[:4])),
    "refused: IPv4 options cut off": refused(ipv4(TCP, b"", options=bytes(40))[:30]),
    "refused: IPv6 fragment": refused(ipv6(FRAGMENT, bytes([TCP, 0, 0, 1, 0, 0, 0, 1]) + tcp())),
    "refused: IPv6 extension cut off": refused(ipv6(HOP_BY_HOP, extension(TCP)[:2])),
    "refused: IPv6 extension over the end": refused(ipv6(HOP_BY_HOP, bytes([TCP, 255]) + tcp())),
    "refused: IPv6 five extensions": refused(ipv6(HOP_BY_HOP, FIVE_EXTENSIONS + extension(TCP) + tcp())),
    "refused: no such IP version": refused(b"\x95" + ipv4(TCP, tcp())[1:]),
}


@pytest.mark.parametrize("program", DIRECTIONS)
def test_packets(program: str, machine: Machine) -> None:
    counted = {
        name: machine.run(program, case.packet, case.segments, case.segment_size) for name, case in CASES.items()
    }
    assert counted == {name: case.counted for name, case in CASES.items()}


def test_largest_numbers(machine: Machine) -> None:
    """65 535 segments (GSO_MAX_SEGS) of the longest headers: no sum wraps."""
    packet = ipv4(TCP, tcp(60), options=bytes(40))
    counted = machine.run("count_egress", packet, 65535, 1)
    assert counted == Counted(65535, len(packet), len(packet) + 65534 * 120, 0)


def test_smallest_segments(machine: Machine) -> None:
    counted = machine.run("count_egress", ipv4(UDP, udp()), 0, 1)
    assert counted == Counted(3000, 3028, 3028 + 2999 * 28, 0)


@pytest.mark.parametrize("ether_type", SHORTEST)
def test_garbage_passes_and_is_counted(ether_type: int, machine: Machine) -> None:
    chance = random.Random(20261123 + ether_type)
    for _ in range(300):
        packet = bytearray(chance.randbytes(chance.randint(SHORTEST[ether_type], 1500)))
        # Most of them with a beginning that leads somewhere.
        packet[0] = chance.choice([packet[0], 0x45, 0x4F, 0x60])
        if len(packet) > 9:
            packet[9] = chance.choice([packet[9], TCP, UDP])
            packet[6] = chance.choice([packet[6], TCP, UDP, HOP_BY_HOP, DESTINATION])
        segments, size = chance.choice([0, 1, 2, 65535]), chance.choice([0, 1, 536, 1448, 65535])
        counted = machine.run("count_ingress", bytes(packet), segments, size, ether_type=ether_type)
        assert counted.ip_bytes == len(packet)
        assert counted.packets >= 1
        assert counted.errors in (0, 1)
        if not size or counted.errors:
            assert counted == Counted(1, len(packet), len(packet), counted.errors)


def test_truncated_buffers_are_no_tcp(machine: Machine) -> None:
    """Every place where an IPv6 TCP header with an extension can end."""
    packet, headers = ipv6(HOP_BY_HOP, extension(TCP) + tcp(20)), 48 + 20
    for length in range(1, headers):
        counted = machine.run("count_egress", packet[:length], 2, 1000, ether_type=ETH_P_ARP)
        assert counted == Counted(1, length, length, 1)
    assert machine.run("count_egress", packet[:headers], 2, 1000).errors == 0


def test_loopback_is_not_counted(object_path: Callable[[str], Path]) -> None:
    with load(open_object(object_path("traffic"))) as loaded:
        assert Machine(loaded, 1).run("count_egress", ipv4(TCP, tcp()), 3, 1000) == Counted(0, 0, 0, 0)
