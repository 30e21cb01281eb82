"""The WAN of the benchmarks is what it says: its delay, its bottleneck, and nothing lost, changed or reordered."""

import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

import pytest

from benchmarks.wan import Wan, wan
from benchmarks.wan.ping import pings
from tests.support.network import Endpoint
from tests.support.patience import patient
from tests.support.rates import within

pytestmark = pytest.mark.long

DELAY_S = 0.01
LATE_S = patient(0.004)
"""Of a round trip's median: two timers and four wake-ups on a machine that does other things too."""
TOTAL_RETRANS = 100  # in struct tcp_info, include/uapi/linux/tcp.h
UDP_HEADERS = 28


@contextmanager
def udp(end: Endpoint) -> Iterator[socket.socket]:
    with end.entered():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with made:
        made.bind((end.ipv4, 5001))
        made.settimeout(1)
        yield made


@pytest.mark.parametrize("ipv6", [False, True])
def test_a_packet_is_never_early_and_hardly_late(ipv6: bool) -> None:
    with wan(DELAY_S) as network:
        trips = pings(network, 80, 0.003, ipv6=ipv6)
        relay = network.end()
    assert [trip.number for trip in trips] == list(range(80))
    assert min(trip.there_s for trip in trips) >= DELAY_S
    assert min(trip.back_s for trip in trips) >= DELAY_S
    assert median(trip.round_trip_s for trip in trips) <= 2 * DELAY_S + LATE_S
    # IPv6 speaks of routers and groups by itself.
    assert all(way.packets >= 80 and way.dropped == 0 for way in relay)


@pytest.mark.parametrize("offload", [True, False])
@pytest.mark.parametrize("ipv6", [False, True])
def test_tcp_arrives_whole_and_nothing_is_sent_twice(offload: bool, ipv6: bool) -> None:
    data = random.Random(1).randbytes(8_000_000)
    with wan(DELAY_S, offload=offload) as network, ExitStack() as stack:
        sender, receiver = connection(network, stack, ipv6)
        writer = threading.Thread(target=sender.sendall, args=(data,))
        writer.start()
        arrived = bytearray()
        while len(arrived) < len(data):
            part = receiver.recv(1 << 20)
            assert part, "closed early"
            arrived += part
        writer.join()
        info = sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        up, down = network.end()
    assert arrived == data
    assert struct.unpack_from("=I", info, TOTAL_RETRANS)[0] == 0
    assert up.dropped == down.dropped == 0
    # However large the buffers were, they count as the segments they stand for.
    headers = 72 if ipv6 else 52
    segments = len(data) / (1500 - headers)
    assert segments <= up.packets <= 1.1 * segments
    assert up.wire_bytes == pytest.approx(len(data) + up.packets * headers, abs=2000)


def connection(network: Wan, stack: ExitStack, ipv6: bool) -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    address = (network.far.ipv6 if ipv6 else network.far.ipv4, 5001)
    with network.far.entered():
        listener = stack.enter_context(socket.create_server(address, family=family))
    with network.near.entered():
        client = stack.enter_context(socket.socket(family))
    for end in listener, client:
        end.settimeout(patient(10))
    client.connect(address)
    server = stack.enter_context(listener.accept()[0])
    server.settimeout(patient(10))
    return client, server


def test_a_bottleneck_carries_its_rate_and_its_queue_drops_the_rest() -> None:
    rate, queue = 1_000_000, 50_000  # 50 ms of waiting
    size, count = 1000, 1500
    arrivals: list[tuple[int, float]] = []
    with wan(DELAY_S, rate, queue) as network, udp(network.near) as near, udp(network.far) as far:

        def receive() -> None:
            while True:
                number = int.from_bytes(far.recv(2048)[:4], "big")
                arrivals.append((number, time.monotonic()))
                if number == count:
                    return

        receiver = threading.Thread(target=receive)
        receiver.start()
        begun = time.monotonic()
        sent_at = []
        for number in range(count):  # at twice the rate
            time.sleep(max(0.0, begun + number * size / rate / 2 - time.monotonic()))
            sent_at.append(time.monotonic())
            near.sendto(number.to_bytes(4, "big") + bytes(size - 4 - UDP_HEADERS), (network.far.ipv4, 5001))
        time.sleep(2 * queue / rate)  # there is room again
        near.sendto(count.to_bytes(4, "big"), (network.far.ipv4, 5001))
        receiver.join()
        up, _ = network.end()
    numbers = [number for number, _ in arrivals]
    assert numbers == sorted(set(numbers))
    assert up.dropped == count + 1 - len(arrivals)
    (_, first), *_, (_, last), _ = arrivals
    assert (len(arrivals) - 2) * size / (last - first) == pytest.approx(rate, rel=0.03)
    waits = [at - sent_at[number] - DELAY_S for number, at in arrivals[:-1]]
    assert min(waits) >= size / rate
    assert 0.9 * queue / rate <= max(waits) <= queue / rate + patient(0.03)


def has_device(name: str) -> bool:
    return any(name == found for _, found in socket.if_nameindex())


def test_a_relay_that_died_is_an_error() -> None:
    with wan(DELAY_S) as network:
        os.kill(network.pid, 9)
        with network.near.entered():
            assert within(3, lambda: not has_device(network.near.device))
        with pytest.raises(RuntimeError, match="ended early, with code -9"):
            network.end()


def test_it_ends_with_its_parent_and_the_devices_with_it() -> None:
    with wan(DELAY_S) as network:
        network.end()  # closes the relay's stdin, as the parent's death would
        with network.near.entered(), pytest.raises(OSError, match=r"No such device|no interface"):
            socket.if_nametoindex(network.near.device)
