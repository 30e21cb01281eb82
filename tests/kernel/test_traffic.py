"""ebpf/traffic.bpf.c against real traffic: what it counts is what the queue of the sending device counted."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from chadthrottle.abi import TrafficCount, TrafficDirection
from chadthrottle.bpf.cgroup_link import attach_cgroup
from chadthrottle.bpf.loader import LoadedObject, load
from chadthrottle.bpf.parse import open_object
from tests.support.cgroups import cgroup2_root
from tests.support.network import Endpoint
from tests.support.wire import Sent, WireCounter, counted_wire

EGRESS, INGRESS = TrafficDirection.EGRESS, TrafficDirection.INGRESS
IPV4, IPV6 = socket.AF_INET, socket.AF_INET6
IP_HEADER = {IPV4: 20, IPV6: 40}
UDP_HEADER = 8
# include/uapi/asm-generic/socket.h, include/uapi/linux/udp.h
SO_RCVBUFFORCE = 33
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104

Pair = tuple[Endpoint, Endpoint]
Loader = Callable[..., LoadedObject]


@pytest.fixture
def counting(leaf_cgroup: Path, object_path: Callable[[str], Path]) -> Iterator[Loader]:
    """Loads traffic.bpf.o, with knobs if any, and attaches both programs to leaf_cgroup."""
    with ExitStack() as stack:

        def start(**knobs: bool) -> LoadedObject:
            spec = open_object(object_path("traffic")).with_constants(knobs)
            loaded = stack.enter_context(load(spec))
            for program in loaded.programs.values():
                stack.enter_context(attach_cgroup(program, leaf_cgroup))
            return loaded

        yield start


@contextmanager
def inside(cgroup: Path) -> Iterator[None]:
    """This process is in the cgroup: sockets made here belong to it for life."""
    root = cgroup2_root()
    assert root is not None
    lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    home = next(line.removeprefix("0::/") for line in lines if line.startswith("0::"))
    (cgroup / "cgroup.procs").write_text("0", encoding="ascii")
    try:
        yield
    finally:
        (root / home / "cgroup.procs").write_text("0", encoding="ascii")


@dataclass
class Place:
    """Where to make sockets: in a namespace, with its address, and in a cgroup or not."""

    endpoint: Endpoint
    family: socket.AddressFamily
    cgroup: Path | None

    @property
    def address(self) -> str:
        return self.endpoint.ipv4 if self.family == IPV4 else self.endpoint.ipv6

    def socket(self, kind: socket.SocketKind) -> socket.socket:
        with self.endpoint.entered(), ExitStack() as stack:
            if self.cgroup is not None:
                stack.enter_context(inside(self.cgroup))
            made = socket.socket(self.family, kind)
            made.settimeout(10)
            return made


def tcp_connection(client: Place, server: Place, stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """The client's and the server's socket."""
    with server.socket(socket.SOCK_STREAM) as listener:
        listener.bind((server.address, 5001))
        listener.listen()
        connected = stack.enter_context(client.socket(socket.SOCK_STREAM))
        connected.connect((server.address, 5001))
        accepted, _ = listener.accept()
    return connected, stack.enter_context(accepted)


def udp_sockets(one: Place, other: Place, stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Two sockets connected with each other."""
    pair = stack.enter_context(one.socket(socket.SOCK_DGRAM)), stack.enter_context(other.socket(socket.SOCK_DGRAM))
    for end, place, port in zip(pair, (one, other), (5001, 5002), strict=True):
        # Nobody reads while datagrams are sent.
        end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 25)
        end.bind((place.address, port))
    pair[0].connect((other.address, 5002))
    pair[1].connect((one.address, 5001))
    return pair


def pump(sender: socket.socket, receiver: socket.socket, size: int) -> None:
    """Move that many bytes, in one thread."""
    sender.setblocking(False)
    receiver.setblocking(False)
    block, room = bytes(1 << 18), bytearray(1 << 20)
    sent = received = 0
    deadline = time.monotonic() + 20
    while received < size:
        assert time.monotonic() < deadline
        with suppress(BlockingIOError):
            sent += sender.send(block[: size - sent])
        with suppress(BlockingIOError):
            received += receiver.recv_into(room)


def close_in_order(first: socket.socket, second: socket.socket) -> None:
    """So that the second has no TIME_WAIT socket, whose packets no cgroup hook sees."""
    for end in first, second:
        end.setblocking(True)
    first.shutdown(socket.SHUT_WR)
    assert second.recv(1) == b""
    second.close()
    assert first.recv(1) == b""
    first.close()


def read(loaded: LoadedObject, direction: TrafficDirection) -> TrafficCount:
    return TrafficCount.total(loaded.maps["traffic"].lookup_percpu(direction.key) or ())


def on_the_wire(count: TrafficCount) -> Sent:
    return Sent(count.packets, count.wire_bytes)


def assert_counted(loaded: LoadedObject, direction: TrafficDirection, device: WireCounter) -> TrafficCount:
    """Once the last acknowledgement is through, both say the same."""
    deadline = time.monotonic() + 3
    while on_the_wire(read(loaded, direction)) != device.sent() and time.monotonic() < deadline:
        time.sleep(0.02)
    count = read(loaded, direction)
    assert on_the_wire(count) == device.sent()
    assert count.packets > 0
    assert count.errors == 0
    return count


@pytest.mark.parametrize("family", [IPV4, IPV6])
@pytest.mark.parametrize("counted_side", ["client", "server"])
def test_tcp(
    family: socket.AddressFamily, counted_side: str, counting: Loader, leaf_cgroup: Path, netns_pair: Pair
) -> None:
    up, down = 3_000_000, 7_000_000
    loaded = counting()
    here, there = Place(netns_pair[0], family, leaf_cgroup), Place(netns_pair[1], family, None)
    with counted_wire(here.endpoint, "tcp") as our_wire, counted_wire(there.endpoint, "tcp") as their_wire:
        with ExitStack() as stack:
            if counted_side == "client":
                ours, theirs = tcp_connection(here, there, stack)
            else:
                theirs, ours = tcp_connection(there, here, stack)
            pump(ours, theirs, up)
            pump(theirs, ours, down)
            close_in_order(theirs, ours)
            sent = assert_counted(loaded, EGRESS, our_wire)
            received = assert_counted(loaded, INGRESS, their_wire)
    for count, payload in (sent, up), (received, down):
        assert payload < count.ip_bytes < count.wire_bytes < payload * 1.15
        assert count.packets > payload / 1460
    # Large buffers did pass: otherwise this test shows less than it means to.
    assert sent.wire_bytes - sent.ip_bytes > 1000 * (IP_HEADER[family] + 20)


def test_big_tcp(counting: Loader, leaf_cgroup: Path, netns_pair: Pair) -> None:
    """Buffers over 64 KiB, whose jumbo header is never sent."""
    payload = 30_000_000
    for endpoint in netns_pair:
        sizes = ("gso_max_size", "185000", "gro_max_size", "185000")
        subprocess.run(endpoint.command("ip", "link", "set", endpoint.device, *sizes), check=True)
    loaded = counting()
    here, there = Place(netns_pair[0], IPV6, leaf_cgroup), Place(netns_pair[1], IPV6, None)
    with counted_wire(here.endpoint, "tcp") as our_wire, counted_wire(there.endpoint, "tcp") as their_wire:
        with ExitStack() as stack:
            ours, theirs = tcp_connection(here, there, stack)
            pump(ours, theirs, payload)
            close_in_order(theirs, ours)
            assert_counted(loaded, INGRESS, their_wire)
            sent = read(loaded, EGRESS)
            queued = our_wire.sent()
    assert (sent.packets, sent.errors) == (queued.packets, 0)
    # The queue is fooled: it takes the jumbo header, which is never sent, for a part of each segment.
    jumbo_header = 8
    assert sent.wire_bytes < queued.bytes <= sent.wire_bytes + sent.packets * jumbo_header
    # TCP with timestamps, and 20 bytes of options more in the first packet, less the timestamps' 12.
    retransmitted = sent.wire_bytes - (payload + sent.packets * (40 + 32) + 8)
    assert 0 <= retransmitted < 10_000


@pytest.mark.parametrize("family", [IPV4, IPV6])
@pytest.mark.parametrize("size", [1, 1000])
def test_udp(family: socket.AddressFamily, size: int, counting: Loader, leaf_cgroup: Path, netns_pair: Pair) -> None:
    loaded = counting()
    here, there = Place(netns_pair[0], family, leaf_cgroup), Place(netns_pair[1], family, None)
    with counted_wire(here.endpoint, "udp") as our_wire, counted_wire(there.endpoint, "udp") as their_wire:
        with ExitStack() as stack:
            ours, theirs = udp_sockets(here, there, stack)
            for _ in range(300):
                ours.send(bytes(size))
            for _ in range(200):
                theirs.send(bytes(size))
            sent = assert_counted(loaded, EGRESS, our_wire)
            received = assert_counted(loaded, INGRESS, their_wire)
    packet = IP_HEADER[family] + UDP_HEADER + size
    assert (sent.packets, sent.ip_bytes, sent.wire_bytes) == (300, 300 * packet, 300 * packet)
    assert (received.packets, received.ip_bytes, received.wire_bytes) == (200, 200 * packet, 200 * packet)


@pytest.mark.parametrize("family", [IPV4, IPV6])
@pytest.mark.parametrize("put_together", [False, True], ids=["apart", "together"])
def test_udp_segmentation(
    family: socket.AddressFamily, put_together: bool, counting: Loader, leaf_cgroup: Path, netns_pair: Pair
) -> None:
    """26 segments leave in one buffer, and arrive in one if the receiver asked for that."""
    count, segment, size = 50, 1200, 25 * 1200 + 500
    loaded = counting()
    here, there = Place(netns_pair[0], family, leaf_cgroup), Place(netns_pair[1], family, None)
    with counted_wire(here.endpoint, "udp") as our_wire, counted_wire(there.endpoint, "udp") as their_wire:
        with ExitStack() as stack:
            ours, theirs = udp_sockets(here, there, stack)
            for end in ours, theirs:
                end.setsockopt(SOL_UDP, UDP_SEGMENT, segment)
                end.setsockopt(SOL_UDP, UDP_GRO, int(put_together))
            for _ in range(count):
                ours.send(bytes(size))
                theirs.send(bytes(size))
            sent = assert_counted(loaded, EGRESS, our_wire)
            received = assert_counted(loaded, INGRESS, their_wire)
    header = IP_HEADER[family] + UDP_HEADER
    on_wire = count * (size + 26 * header)
    assert (sent.packets, sent.ip_bytes, sent.wire_bytes) == (count * 26, count * (size + header), on_wire)
    in_buffers = count * (size + header) if put_together else on_wire
    assert (received.packets, received.ip_bytes, received.wire_bytes) == (count * 26, in_buffers, on_wire)


@pytest.mark.parametrize(("family", "fragments", "header"), [(IPV4, 4, 20), (IPV6, 4, 48)])
def test_fragmented_datagram_counts_as_one_packet(
    family: socket.AddressFamily,
    fragments: int,
    header: int,
    counting: Loader,
    leaf_cgroup: Path,
    netns_pair: Pair,
) -> None:
    """The hooks see it before it is cut and after it was put together; so wire.bpf.h says, too."""
    loaded = counting()
    here, there = Place(netns_pair[0], family, leaf_cgroup), Place(netns_pair[1], family, None)
    with counted_wire(here.endpoint, "udp") as our_wire, ExitStack() as stack:
        ours, theirs = udp_sockets(here, there, stack)
        for _ in range(10):
            ours.send(bytes(5000))
            theirs.send(bytes(5000))
        assert len(ours.recv(9000)) == 5000
        assert our_wire.sent() == Sent(10 * fragments, 10 * (5000 + UDP_HEADER + fragments * header))
    packet = IP_HEADER[family] + UDP_HEADER + 5000
    for direction in TrafficDirection:
        count = read(loaded, direction)
        assert (count.packets, count.ip_bytes, count.wire_bytes, count.errors) == (10, 10 * packet, 10 * packet, 0)


def test_sockets_of_others_are_not_counted(counting: Loader, netns_pair: Pair) -> None:
    """On the same device, at the same time."""
    loaded = counting()
    with ExitStack() as stack:
        ours, theirs = udp_sockets(Place(netns_pair[0], IPV4, None), Place(netns_pair[1], IPV4, None), stack)
        ours.send(b"out")
        theirs.send(b"in")
        assert ours.recv(9) == b"in"
    assert [read(loaded, direction).packets for direction in TrafficDirection] == [0, 0]


@pytest.mark.parametrize("family", [IPV4, IPV6])
def test_loopback_is_skipped(
    family: socket.AddressFamily, counting: Loader, leaf_cgroup: Path, netns_pair: Pair
) -> None:
    """A connection to an address of this machine's own passes loopback as well."""
    loaded = counting()
    here = Place(netns_pair[0], family, leaf_cgroup)
    with ExitStack() as stack:
        ours, theirs = tcp_connection(here, here, stack)
        pump(ours, theirs, 1_000_000)
    assert [read(loaded, direction).packets for direction in TrafficDirection] == [0, 0]


@pytest.mark.parametrize("family", [IPV4, IPV6])
def test_loopback_is_counted_with_the_knob(
    family: socket.AddressFamily, counting: Loader, leaf_cgroup: Path, netns_pair: Pair
) -> None:
    loaded = counting(count_loopback=True)
    here = Place(netns_pair[0], family, leaf_cgroup)
    with ExitStack() as stack:
        ours, theirs = udp_sockets(here, here, stack)
        for _ in range(100):
            ours.send(bytes(1000))
        for _ in range(100):
            theirs.recv(2000)
    size = 100 * (IP_HEADER[family] + UDP_HEADER + 1000)
    for direction in TrafficDirection:
        count = read(loaded, direction)
        assert (count.packets, count.ip_bytes, count.wire_bytes, count.errors) == (100, size, size, 0)
