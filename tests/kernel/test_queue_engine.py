"""Which engine a limit has, and uploads that are queued."""

import pytest

from chadthrottle.abi import ThrottleDirection
from chadthrottle.limits import Throttled
from chadthrottle.model import Direction, Engine
from tests.support.queued import (
    goes_through_queue,
    join,
    notes,
    recorded,
    require_limited,
    require_queued,
    require_queued_upload,
    require_rate,
    traffic_control,
)
from tests.support.rates import gets_faster, within
from tests.support.throttled import LIMIT, SINK, Scene


def engines(done: Throttled) -> tuple[Engine, Engine]:
    """Up, down."""
    assert done.state.up is not None
    assert done.state.down is not None
    return done.state.up.engine, done.state.down.engine


def test_auto_queues_downloads(stage: Scene) -> None:
    assert engines(stage.throttle(stage.start())) == (Engine.CGROUP, Engine.QUEUE)


def test_cgroup_stays_cgroup_when_throttled_again(stage: Scene) -> None:
    nothing = traffic_control(stage.here)
    program = stage.start()
    assert engines(stage.throttle(program, engine=Engine.CGROUP)) == (Engine.CGROUP, Engine.CGROUP)
    assert engines(stage.throttle(program, down=2 * LIMIT)) == (Engine.CGROUP, Engine.CGROUP)
    assert notes(stage) == []
    assert traffic_control(stage.here) == nothing
    assert recorded(stage) == []


def test_engine_can_be_changed_and_back(stage: Scene) -> None:
    nothing = traffic_control(stage.here)
    program = stage.start()
    program.busy_download()
    stage.throttle(program, engine=Engine.CGROUP)
    assert engines(stage.throttle(program, engine=Engine.QUEUE)) == (Engine.QUEUE, Engine.QUEUE)
    require_queued(stage, program)
    assert engines(stage.throttle(program, engine=Engine.CGROUP)) == (Engine.CGROUP, Engine.CGROUP)
    stage.throttle(stage.start(), down=None)  # sweeps
    assert traffic_control(stage.here) == nothing
    require_limited(stage, program)


@pytest.mark.parametrize(("udp", "ipv6"), [(False, False), (True, True)], ids=["TCP over IPv4", "UDP over IPv6"])
def test_queued_upload(udp: bool, ipv6: bool, stage: Scene) -> None:
    nothing = traffic_control(stage.here)
    program = stage.start()
    program.busy_upload(udp=udp, ipv6=ipv6)
    done = stage.throttle(program, engine=Engine.QUEUE)
    assert done.notes == ()
    assert engines(done) == (Engine.QUEUE, Engine.QUEUE)
    require_queued_upload(stage, program)
    stage.release(program)
    assert traffic_control(stage.here) == nothing
    assert gets_faster(program.sent, 3 * LIMIT, 3)


def test_released_upload_leaves_the_download_queued(stage: Scene) -> None:
    program = stage.start()
    program.busy_download()
    program.busy_upload()
    stage.throttle(program, engine=Engine.QUEUE)
    stage.release(program, directions=frozenset({Direction.UP}))
    assert not any(each.by_filter & 1 << ThrottleDirection.UP for each in recorded(stage))
    assert gets_faster(program.sent, 3 * LIMIT, 3)
    require_queued(stage, program)


def test_queued_upload_through_a_device_that_came_later(stage: Scene) -> None:
    """Is policed after a few packets, and queued by the next command."""
    program = stage.start()
    stage.throttle(program, engine=Engine.QUEUE)
    host = join(stage.here, stage.peer.endpoint, "veth1", 8)
    program.do(f"connect('up', socket.AF_INET, socket.SOCK_STREAM, {host!r}, {SINK}); send_on('up')")
    require_rate(program.sent, 0.2 * LIMIT, 1.2 * LIMIT)
    # One look here; in an emulated guest the few packets take longer than that.
    assert within(0.1, lambda: goes_through_queue(stage, program, ThrottleDirection.UP) < 0.1)
    stage.throttle(stage.start())
    require_queued_upload(stage, program)
