"""The comparison measures what it says, reports what fails, and leaves nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from benchmarks.accuracy.cells import Cell, M
from benchmarks.field.contenders import UNLIMITED
from benchmarks.field.contenders.policing import POLICING
from benchmarks.field.measure import measure
from benchmarks.field.place import Place, Unavailable
from chadthrottle.model import Direction

UDP = Cell(M, protocol="udp", datagram=1400)


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("rtt_ms", [0, 20])
def test_the_meter_counts_ip_bytes_of_what_arrives(direction: Direction, rtt_ms: int) -> None:
    # Datagrams are offered by the clock, at twice the limit with their headers; no limiter is there.
    found = measure(replace(UDP, direction=direction, rtt_ms=rtt_ms), UNLIMITED, 2)
    assert found.why == ""
    # And a request of 64 bytes with its ACK: 52 bytes of headers each, 20 times a second.
    requests = 20 * (64 + 2 * 52) / M
    assert found.achieved == pytest.approx(2 + requests, rel=0.03)
    assert found.requests > 30
    assert found.p50 is not None
    assert not found.p50.at_least


@pytest.mark.parametrize("direction", Direction)
def test_a_limit_is_seen_past_the_limiter(direction: Direction) -> None:
    found = measure(Cell(10 * M, direction=direction), POLICING, 3)
    assert found.why == ""
    assert 0.7 < found.achieved < 1.5
    assert (found.retransmitted > 0) or direction is Direction.UP


@contextmanager
def refusing(_place: Place, _cell: Cell, _pid: int) -> Iterator[None]:
    raise Unavailable("not on a Friday")
    yield


@contextmanager
def failing(_place: Place, _cell: Cell, _pid: int) -> Iterator[None]:
    raise ZeroDivisionError("of all things")
    yield


def test_what_goes_wrong_is_in_the_outcome() -> None:
    assert measure(UDP, replace(UNLIMITED, limit=refusing), 1).why == "not on a Friday"
    assert measure(UDP, replace(UNLIMITED, limit=failing), 1).why == "failed: ZeroDivisionError: of all things"
    program_that_ends = replace(UNLIMITED, starts_with=lambda _: ("false",))
    assert measure(Cell(M), program_that_ends, 1).why.startswith("failed: ")
    assert measure(UDP, replace(UNLIMITED, cannot=lambda _: "TCP only"), 1).why == "TCP only"
