"""Where it happens: namespaces, a cgroup and a bpffs as the tests make them; a veth that counts what is on the wire."""

import ctypes
import fcntl
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from chadthrottle import cgroup
from chadthrottle.model import AttachPoint
from tests.support.bpffs import mount_bpffs, unmount_bpffs
from tests.support.cgroups import make_cgroup, remove_cgroup
from tests.support.network import Endpoint, veth_pair

__all__ = ["Surroundings", "Wire", "surroundings"]

# include/uapi/linux/sockios.h, ethtool.h
SIOCETHTOOL = 0x8946
ETHTOOL_STSO = 0x1F
ETHERNET_HEADER = 14


@dataclass(frozen=True, slots=True)
class Wire:
    """What a device has counted, as IP bytes on the wire."""

    sent_packets: int
    sent_bytes: int
    received_packets: int
    received_bytes: int
    lost_packets: int
    """Sent, and refused by the other end's queue: in no other count."""

    def __sub__(self, other: "Wire") -> "Wire":
        return Wire(
            self.sent_packets - other.sent_packets,
            self.sent_bytes - other.sent_bytes,
            self.received_packets - other.received_packets,
            self.received_bytes - other.received_bytes,
            self.lost_packets - other.lost_packets,
        )


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`here` are the limited programs, `there` is their peer."""

    here: Endpoint
    there: Endpoint
    cgroup: Path
    base: Path
    """Where our pins are."""

    @property
    def at(self) -> AttachPoint:
        return AttachPoint(str(self.cgroup))

    def wire(self) -> Wire:
        """The counters of the limited programs' device: fields 1, 2, 9, 10 and 12 of /proc/net/dev."""
        with self.here.entered():
            lines = Path("/proc/thread-self/net/dev").read_text("ascii").splitlines()
        (found,) = (line.split(":")[1].split() for line in lines if line.strip().startswith(self.here.device))
        received, packets_in, sent, packets_out, lost = (int(found[at]) for at in (0, 1, 8, 9, 11))
        return Wire(
            packets_out, sent - ETHERNET_HEADER * packets_out, packets_in, received - ETHERNET_HEADER * packets_in, lost
        )


@contextmanager
def surroundings() -> Iterator[Surroundings]:
    """All of it goes in the end, with whatever is in the cgroup."""
    with ExitStack() as stack:
        here, there = stack.enter_context(veth_pair())
        for end, other in (here, there), (there, here):
            _count_wire_packets(end)
            _know(end, other)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ct-stress-")))
        mount_bpffs(directory)
        stack.callback(unmount_bpffs, directory)
        path = make_cgroup(cgroup.root())
        stack.callback(remove_cgroup, path)
        yield Surroundings(here, there, path, directory / "chadthrottle")


def _count_wire_packets(end: Endpoint) -> None:
    """A veth takes a GSO buffer for one packet. Without TSO the kernel cuts it up before, but after our hooks."""
    value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_STSO, 0), 8)
    with end.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sP16x", end.device.encode(), ctypes.addressof(value))
        fcntl.ioctl(handle, SIOCETHTOOL, request)


def _know(end: Endpoint, other: Endpoint) -> None:
    """Nothing asks for neighbours or routers: all that is on the wire belongs to sockets of programs."""
    with other.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as probe:
        probe.bind((other.device, 0))
        hardware = ":".join(f"{byte:02x}" for byte in probe.getsockname()[4])
    for address in other.ipv4, other.ipv6:
        words = ("neigh", "replace", address, "lladdr", hardware, "dev", end.device, "nud", "permanent")
        subprocess.run(["ip", "-n", end.namespace, *words], check=True)
    with end.entered():
        Path(f"/proc/sys/net/ipv6/conf/{end.device}/router_solicitations").write_text("0", "ascii")
