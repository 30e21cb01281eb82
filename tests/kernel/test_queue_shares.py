"""Several at once: each limit by itself, and within one limit the small before the large."""

import statistics
import time
from contextlib import ExitStack

import pytest

from chadthrottle.model import Engine
from tests.support.patience import FACTOR
from tests.support.queued import datagrams, download_beside_a_flood, goes_through_queue, receive_datagrams, require_rate
from tests.support.rates import gets_faster, rates
from tests.support.throttled import LIMIT, Program, Scene

DNS = 53


def test_two_limits_and_none(stage: Scene) -> None:
    """2 and 20 Mbit/s; the third has what is left."""
    slow, fast, free = (stage.start() for _ in range(3))
    for program in slow, fast, free:
        program.busy_download()
    stage.throttle(slow, up=None, down=LIMIT // 4)
    stage.throttle(fast, up=None, down=5 * LIMIT // 2)
    for _ in range(2):
        require_rate(slow.received, 0.6 * LIMIT / 4, 1.15 * LIMIT / 4)
        require_rate(fast.received, 0.7 * LIMIT * 2.5, 1.1 * LIMIT * 2.5)
        assert gets_faster(free.received, 10 * LIMIT, 3, seconds=0.5)


def test_connections_of_one_program_share(stage: Scene) -> None:
    program = stage.start()
    names = [f"down{number}" for number in range(8)]
    for name in names:
        program.busy_download(name)
    stage.throttle(program)
    require_rate(lambda: sum(map(program.received, names)), 0.7 * LIMIT, 1.1 * LIMIT)
    assert goes_through_queue(stage, program) == 1


def test_a_flood_of_datagrams_leaves_tcp_its_part(stage: Scene) -> None:
    """TCP has no loss for it."""
    flood, stream = download_beside_a_flood(stage, Engine.QUEUE)
    assert stream > 0.35 * LIMIT
    assert flood > 0.25 * LIMIT
    assert flood + stream < 1.05 * LIMIT


def test_a_flood_of_datagrams_leaves_tcp_uploads_their_part(stage: Scene) -> None:
    """What of it finds no room in the queue is no reason for TCP to be paced to less."""
    program = stage.start()
    program.busy_upload("flood", udp=True)
    program.busy_upload("stream")
    stage.throttle(program, down=None, engine=Engine.QUEUE)
    time.sleep(1.5)
    (stream,) = rates(lambda: program.sent("stream"), seconds=2)
    assert 0.25 * LIMIT < stream < 0.8 * LIMIT


def waited(program: Program, name: str) -> float:
    """Seconds, the median of the last ones."""
    return float(statistics.median(program.ask(f"ages[{name!r}][-40:]")))


@pytest.mark.skipif(FACTOR != 1, reason="a delay on an emulated machine says nothing")
@pytest.mark.parametrize("small", ["from DNS", "of few bytes"])
def test_small_answers_do_not_wait_behind_a_bulk_download(small: str, stage: Scene) -> None:
    program = stage.start()
    receive_datagrams(program, "bulk", 6000)
    receive_datagrams(program, "small", 6001)
    stage.throttle(program)
    port, size = (DNS, 400) if small == "from DNS" else (6101, 80)
    with ExitStack() as stack:
        stack.enter_context(datagrams(stage.peer.endpoint, 6100, (stage.here.ipv4, 6000), 1200))
        stack.enter_context(datagrams(stage.peer.endpoint, port, (stage.here.ipv4, 6001), size, pause_s=0.02))
        time.sleep(1)
        require_rate(lambda: program.received("bulk"))
        assert int(program.ask("len(ages['small'])")) > 20
        assert waited(program, "bulk") > 0.04
        assert waited(program, "small") < 0.03
