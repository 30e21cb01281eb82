"""How long packets take, each way: UDP there and back, both ends in this thread, so that one clock times both."""

import selectors
import socket
import struct
import time
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.wan import Wan
from tests.support.network import Endpoint

__all__ = ["Trip", "pings"]

PORT = 5007
STAMP = struct.Struct("=Id")  # number, time.monotonic()


@dataclass(frozen=True, slots=True)
class Trip:
    """One ping: seconds, as a process sees them."""

    number: int
    there_s: float
    back_s: float

    @property
    def round_trip_s(self) -> float:
        return self.there_s + self.back_s


def pings(wan: Wan, count: int, interval_s: float, *, ipv6: bool = False, patience_s: float = 2.0) -> list[Trip]:
    """Send so many at that interval; those that came back, in the order in which they did."""
    with ExitStack() as stack:
        near, far = (stack.enter_context(_socket(end, ipv6=ipv6)) for end in (wan.near, wan.far))
        near.connect(far.getsockname())
        far.connect(near.getsockname())
        ready = stack.enter_context(selectors.DefaultSelector())
        for end in near, far:
            ready.register(end, selectors.EVENT_READ, end)
        there: dict[int, float] = {}
        trips: list[Trip] = []
        sent, begun = 0, time.monotonic()
        while len(trips) < count:
            next_at = begun + sent * interval_s if sent < count else begun + count * interval_s + patience_s
            for key, _ in ready.select(max(0.0, next_at - time.monotonic())):
                number, sent_at = STAMP.unpack(key.data.recv(64))
                took = time.monotonic() - sent_at
                if key.data is far:
                    there[number] = took
                    far.send(STAMP.pack(number, time.monotonic()))
                else:
                    trips.append(Trip(number, there[number], took))
            if time.monotonic() < next_at:
                continue
            if sent == count:
                break
            near.send(STAMP.pack(sent, time.monotonic()))
            sent += 1
    return trips


def _socket(endpoint: Endpoint, *, ipv6: bool) -> socket.socket:
    with endpoint.entered():
        made = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((endpoint.ipv6 if ipv6 else endpoint.ipv4, PORT))
    return made
