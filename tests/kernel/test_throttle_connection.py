"""What ebpf/judge.bpf.h asks the TCP socket of a packet: is anything in flight, what was sent again.

Packets made by hand, judged for a real connection by tests/objects/judge.bpf.c (BPF_PROG_TEST_RUN).
"""

import ctypes
import itertools
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chadthrottle.abi import ThrottleDirection
from chadthrottle.bpf.loader import load
from chadthrottle.bpf.parse import open_object
from tests.support import packets
from tests.support.judged import (
    BURST_NS,
    DROP,
    PASS,
    PASS_SLOWER,
    TICKS_PER_NS,
    Given,
    Judge,
    given,
    price_ticks,
)
from tests.support.network import Endpoint
from tests.support.packets import ipv4, ipv6, tcp
from tests.support.patience import patient

UP, DOWN = ThrottleDirection
BURST_TICKS = BURST_NS * TICKS_PER_NS


@pytest.fixture
def judge(object_path: Callable[[str], Path]) -> Iterator[Judge]:
    with load(open_object(object_path("judge"))) as loaded:
        yield Judge(loaded)


class Connection:
    """A TCP connection over a veth, with nothing in flight, and the judgement of packets for it."""

    def __init__(self, judge: Judge, own: socket.socket, peer: Endpoint) -> None:
        self.judge = judge
        self._own = own
        self._peer = peer

    def given(self, *, owed_ticks: int = 0) -> Given:
        made = given(owed_ticks=owed_ticks)
        made.connection[:] = sock_tuple(self._own.getpeername(), self._own.getsockname())
        return made

    def verdicts(self, number: int) -> list[int]:
        return [self.judge.run(UP, segment(0, 1448), connection=True).retval for _ in range(number)]

    def keep_in_flight(self) -> None:
        """Send what nobody acknowledges. The device stays: without it TCP would be told that nothing was sent."""
        address = ("address", "del", f"{self._peer.ipv4}/24", "dev", self._peer.device)
        subprocess.run(["ip", "-n", self._peer.namespace, *address], check=True)
        self._own.send(b"never arrives")


def sock_tuple(peer: tuple[str, int], own: tuple[str, int]) -> list[ctypes.c_uint8 | int]:
    """struct bpf_sock_tuple, which looks at a connection as an arriving packet does."""
    ports = peer[1].to_bytes(2, "big") + own[1].to_bytes(2, "big")
    return [*socket.inet_aton(peer[0]), *socket.inet_aton(own[0]), *ports]


def segment(sequence: int, size: int, *, family: int = 4) -> bytes:
    payload = tcp(bytes(size), header=32, sequence=sequence & 0xFFFF_FFFF)
    return ipv4(packets.TCP, payload) if family == 4 else ipv6(packets.TCP, payload)


@pytest.fixture
def connection(judge: Judge, netns_pair: tuple[Endpoint, Endpoint]) -> Iterator[Connection]:
    here, there = netns_pair
    with ExitStack() as stack:
        with there.entered():
            server = stack.enter_context(socket.create_server((there.ipv4, 0)))
        stack.enter_context(here.entered())
        own = stack.enter_context(socket.create_connection(server.getsockname()))
        stack.enter_context(server.accept()[0])
        yield Connection(judge, own, there)


def test_the_guard(connection: Connection) -> None:
    """With nothing in flight each eighth segment passes and is charged; with something, none does."""
    judge = connection.judge
    judge.given = connection.given(owed_ticks=BURST_TICKS)
    assert connection.verdicts(24) == ([DROP[UP]] * 7 + [PASS]) * 3
    after = judge.given
    assert (after.count(UP).dropped_packets, after.count(UP).passed_packets, after.tag.refused) == (21, 3, 0)
    assert after.owed_ticks(UP) == BURST_TICKS + 3 * price_ticks(1500)

    # What passes in between begins the count anew.
    connection.judge.given = connection.given(owed_ticks=BURST_TICKS)
    connection.verdicts(7)
    changed = judge.given
    assert changed.tag.refused == 7
    changed.meter.ahead_until[UP] -= BURST_TICKS
    judge.given = changed
    assert connection.verdicts(1) == [PASS]
    assert judge.given.tag.refused == 0

    connection.keep_in_flight()
    judge.given = connection.given(owed_ticks=BURST_TICKS)
    assert connection.verdicts(20) == [DROP[UP]] * 20
    assert judge.given.tag.refused == 0


def test_segments_sent_again_are_counted(connection: Connection) -> None:
    """TCP's own count, from where it stood when the socket came to the rule."""
    judge = connection.judge
    judge.given = connection.given()
    connection.verdicts(1)
    connection.keep_in_flight()

    def sent_again() -> int:
        connection.verdicts(1)
        return int(judge.given.count(UP).retransmitted_packets)

    assert sent_again() == 0
    deadline = time.monotonic() + patient(5)  # the first is due after some 200 ms, the second 400 ms later
    while sent_again() < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    counted = judge.given
    assert (counted.count(UP).retransmitted_packets, counted.tag.known & 1) == (counted.tag.sent_again, 1)
    judge.given = connection.given()  # another rule takes the socket over
    connection.verdicts(2)
    assert judge.given.count(UP).retransmitted_packets == 0


def test_a_window_larger_than_its_clamp_is_slowed(connection: Connection) -> None:
    """Initially it is 10 segments (RFC 6928)."""
    for clamp, verdict in ((0, PASS), (9, PASS_SLOWER), (10, PASS), (0x7FFF_FFFF, PASS)):
        wanted = connection.given()
        wanted.tag.our_window = clamp
        connection.judge.given = wanted
        assert connection.verdicts(1) == [verdict], clamp


def test_segments_that_arrive_again(connection: Connection) -> None:
    """By their sequence numbers, which wrap; acknowledgements have none of their own."""
    judge = connection.judge
    for family, start in itertools.product((4, 6), (1000, (1 << 32) - 1500, (1 << 31) - 1500)):
        judge.given = connection.given()
        for offset, size, segments, counted in (
            (0, 1000, 0, 0),
            (1000, 1000, 0, 0),
            (1000, 0, 0, 0),
            (1000, 1000, 0, 1),
            (3000, 1000, 0, 1),  # one is lost
            (2000, 1000, 0, 2),  # there it is
            (4000, 2000, 2, 2),
            (4000, 2000, 2, 4),
            (5000, 2000, 2, 5),  # one of the two is new
            (7000, 1000, 0, 5),
        ):
            packet = segment(start + offset, size, family=family)
            judge.run(DOWN, packet, segments=segments, segment_size=1000 if segments else 0, connection=True)
            assert judge.given.count(DOWN).retransmitted_packets == counted, (start, offset)
        assert judge.given.tag.received_until == (start + 8000) % (1 << 32)


def test_a_listening_socket_knows_no_sequence(judge: Judge) -> None:
    """Data with the handshake's last ACK is judged for it, and its tag is what later connections begin with."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        wanted = given()
        wanted.connection[:] = sock_tuple(("127.0.0.2", 1234), server.getsockname())
        judge.given = wanted
        judge.run(DOWN, segment(1000, 1000), connection=True)
        assert judge.given.count(DOWN).passed_packets == 1
        assert not judge.given.tag.known & 2
