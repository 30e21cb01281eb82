"""What leaves a device, counted by its queue: a second opinion on byte counts.

Unlike the device's own counters, a queue counts a GSO buffer as the packets it will be cut into, each
with headers of its own (qdisc_pkt_len_init() of net/core/dev.c).
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.network import Endpoint

ETHERNET_HEADER = 14
# How u32 finds them in the IP header.
IPV6_FRAGMENT = ("ipv6", "ip6 protocol 44 0xff")
IPV6_JUMBO = ("ipv6", "ip6 protocol 0 0xff match u8 194 0xff at 42")
PROTOCOLS = {
    "tcp": (("ip", "ip protocol 6 0xff"), ("ipv6", "ip6 protocol 6 0xff"), IPV6_JUMBO),
    "udp": (("ip", "ip protocol 17 0xff"), ("ipv6", "ip6 protocol 17 0xff"), IPV6_FRAGMENT),
}


@dataclass(frozen=True, slots=True)
class Sent:
    """Packets and their bytes from the IP header on."""

    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class WireCounter:
    """The packets of one protocol that left an endpoint."""

    endpoint: Endpoint

    def sent(self) -> Sent:
        command = self.endpoint.command("tc", "-s", "class", "show", "dev", self.endpoint.device)
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        # tc of Debian 12 knows no JSON for classes.
        found = re.search(r"class htb 1:1 .*\n Sent (\d+) bytes (\d+) pkt \(dropped 0,", text)
        assert found, text
        packets = int(found[2])
        return Sent(packets, int(found[1]) - packets * ETHERNET_HEADER)


@contextmanager
def counted_wire(endpoint: Endpoint, protocol: str) -> Iterator[WireCounter]:
    """Count that protocol, over IPv4 and IPv6, apart from what the kernel itself sends (neighbours, groups)."""
    device = endpoint.device
    _tc(endpoint, "qdisc", "replace", "dev", device, "root", "handle", "1:", "htb")
    rate = ("rate", "100gbit", "quantum", "200000")
    _tc(endpoint, "class", "add", "dev", device, "parent", "1:", "classid", "1:1", "htb", *rate)
    for priority, (family, match) in enumerate(PROTOCOLS[protocol], start=1):
        where = ("dev", device, "parent", "1:", "protocol", family, "prio", str(priority))
        _tc(endpoint, "filter", "add", *where, "u32", "match", *match.split(), "flowid", "1:1")
    try:
        yield WireCounter(endpoint)
    finally:
        _tc(endpoint, "qdisc", "del", "dev", device, "root")


def _tc(endpoint: Endpoint, *words: str) -> None:
    subprocess.run(endpoint.command("tc", *words), check=True)
