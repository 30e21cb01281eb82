"""What shares one limit: who gives way must not get nothing."""

import time

from chadthrottle.model import Engine
from tests.support.queued import download_beside_a_flood
from tests.support.rates import rates
from tests.support.throttled import LIMIT, Scene


def test_a_flood_of_datagrams_leaves_tcp_its_part(stage: Scene) -> None:
    """Ten times the limit by UDP, which does not slow down, and TCP, which does."""
    program = stage.start()
    program.busy_upload("flood", udp=True)
    program.busy_upload("stream")
    stage.throttle(program, down=None)
    time.sleep(1)
    flood, stream = rates(lambda: program.sent("flood"), lambda: program.sent("stream"), seconds=2)
    assert stream > 0.25 * LIMIT
    assert flood > 0.25 * LIMIT
    assert flood + stream < 1.1 * LIMIT


def test_a_flood_of_datagrams_leaves_policed_downloads_their_part(stage: Scene) -> None:
    """Less than half: TCP gives way to what it loses."""
    flood, stream = download_beside_a_flood(stage, Engine.CGROUP)
    assert stream > 0.25 * LIMIT
    assert flood > 0.25 * LIMIT
    assert flood + stream < 1.1 * LIMIT
