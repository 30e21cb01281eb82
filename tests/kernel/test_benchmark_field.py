"""The comparison measures what it says, reports what fails, and leaves nothing behind."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest

from benchmarks.accuracy.cells import Cell, M
from benchmarks.field.contenders import UNLIMITED, Contender
from benchmarks.field.contenders.policing import POLICING
from benchmarks.field.measure import measure
from benchmarks.field.outcome import Outcome
from benchmarks.field.place import Place, Unavailable, built
from chadthrottle.model import Direction

pytestmark = pytest.mark.long

UDP = Cell(M, protocol="udp", datagram=1400)


def measure_at_once(cells: Sequence[Cell], contender: Contender, seconds: int) -> dict[Cell, Outcome]:
    """Each in a place of its own; together they are a small load."""
    built("meter")  # not by all of them
    with ThreadPoolExecutor(len(cells)) as pool:
        return dict(zip(cells, pool.map(lambda cell: measure(cell, contender, seconds), cells), strict=True))


def test_the_meter_counts_ip_bytes_of_what_arrives() -> None:
    # Datagrams are offered by the clock, at twice the limit with their headers; no limiter is there.
    cells = [replace(UDP, direction=direction, rtt_ms=rtt_ms) for direction in Direction for rtt_ms in (0, 20)]
    for cell, found in measure_at_once(cells, UNLIMITED, 2).items():
        assert found.why == "", cell
        # And a request of 64 bytes with its ACK: 52 bytes of headers each, 20 times a second.
        requests = 20 * (64 + 2 * 52) / M
        assert found.achieved == pytest.approx(2 + requests, rel=0.03), cell
        assert found.requests > 30, cell
        assert found.p50 is not None, cell
        assert not found.p50.at_least, cell


def test_a_limit_is_seen_past_the_limiter() -> None:
    cells = [Cell(10 * M, direction=direction) for direction in Direction]
    for cell, found in measure_at_once(cells, POLICING, 3).items():
        assert found.why == "", cell
        assert 0.7 < found.achieved < 1.5, cell
        assert (found.retransmitted > 0) or cell.direction is Direction.UP, cell


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
