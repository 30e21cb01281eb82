"""Packets made by hand, from their IP header on, and the context with which BPF_PROG_TEST_RUN takes them.

Addresses and lengths are right unless a caller asks otherwise; checksums are the IPv4 header's alone.
"""

import ctypes
import struct

# include/uapi/linux/if_ether.h
ETH_P_IP, ETH_P_IPV6, ETH_P_ARP = 0x0800, 0x86DD, 0x0806
ETHERTYPES = {4: ETH_P_IP, 6: ETH_P_IPV6}
# Protocol numbers, as in the headers.
HOP_BY_HOP, ICMP, TCP, UDP, ROUTING, FRAGMENT, GRE = 0, 1, 6, 17, 43, 44, 47
ESP, AH, ICMPV6, NO_NEXT, DESTINATION = 50, 51, 58, 59, 60
IPV4_SOURCE, IPV4_DESTINATION = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 2])
IPV6_SOURCE, IPV6_DESTINATION = (bytes([0x20, 0x01, 0x0D, 0xB8]) + bytes(11) + bytes([host]) for host in (1, 2))
PAD = bytes([1, 4, 0, 0, 0, 0])


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


def frame(packet: bytes, ethertype: int | None = None) -> bytes:
    """With the link header from which a test run learns the protocol; by the IP version unless told."""
    if ethertype is None:
        ethertype = ETHERTYPES.get(packet[0] >> 4, ETH_P_ARP)
    return bytes(12) + struct.pack(">H", ethertype) + packet


def checksum(header: bytes) -> int:
    """Of an IPv4 header (RFC 1071): 0 if the one that is in it is right."""
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ipv4(
    protocol: int,
    behind: bytes,
    *,
    options: bytes = b"",
    fragment: int = 0,
    tos: int = 0,
    total: int | None = None,
    source: bytes = IPV4_SOURCE,
    destination: bytes = IPV4_DESTINATION,
) -> bytes:
    """`fragment` is flags and offset in one; `total` is the length that the header claims."""
    words = 5 + len(options) // 4
    if total is None:
        total = 4 * words + len(behind)
    start = struct.pack(">BBHHHBB", 0x40 | words, tos, total, 0x1234, fragment, 64, protocol)
    end = source + destination + options
    return start + struct.pack(">H", checksum(start + bytes(2) + end)) + end + behind


def ipv6(
    following: int,
    behind: bytes,
    *,
    traffic_class: int = 0,
    payload: int | None = None,
    source: bytes = IPV6_SOURCE,
    destination: bytes = IPV6_DESTINATION,
) -> bytes:
    """`payload` is the length that the header claims."""
    length = len(behind) if payload is None else payload
    return struct.pack(">IHBB", 6 << 28 | traffic_class << 20, length, following, 64) + source + destination + behind


def extension(following: int, content: bytes = PAD) -> bytes:
    """A hop-by-hop, routing or destination header."""
    assert len(content) % 8 == 6
    return bytes([following, (len(content) - 6) // 8]) + content


def ipv6_fragment(following: int, offset_and_flags: int) -> bytes:
    return struct.pack(">BBHI", following, 0, offset_and_flags, 1)


def jumbo(length: int) -> bytes:
    """The option that the kernel puts in front of a BIG TCP buffer, for `extension` (RFC 2675)."""
    return bytes([194, 4]) + length.to_bytes(4, "big")


def tcp(payload: bytes = b"", *, header: int = 20, data_offset: int | None = None, sequence: int = 0) -> bytes:
    """`data_offset` is the header's length in words as it claims."""
    words = header // 4 if data_offset is None else data_offset
    start = struct.pack(">HHIIBBHHH", 1, 2, sequence, 0, words << 4, 0x10, 0, 0, 0)
    return start + bytes(header - 20) + payload


def udp(payload: bytes = b"") -> bytes:
    return struct.pack(">HHHH", 1, 2, 8 + len(payload), 0) + payload
