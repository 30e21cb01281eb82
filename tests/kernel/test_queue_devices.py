"""Devices that come and go while a download is queued, ours among them."""

import pytest

from chadthrottle import limits
from tests.support.queued import (
    DEVICE,
    attached_devices,
    download_from,
    goes_through_queue,
    ip,
    join,
    notes,
    recorded,
    require_limited,
    require_queued,
    tc,
)
from tests.support.rates import gets_faster
from tests.support.throttled import LIMIT, Scene


def said(stage: Scene) -> str:
    return " ".join(stage.listing().notes)


def test_new_device_is_policed_at_once_and_queued_by_watch(stage: Scene) -> None:
    program = stage.start()
    stage.throttle(program)
    host = join(stage.here, stage.peer.endpoint, "veth1", 8)
    download_from(program, host)
    require_limited(stage, program)
    assert goes_through_queue(stage, program, seconds=0.3) == 0
    assert "veth1" in said(stage)
    limits.listing(stage.base, repair=True)
    assert "veth1" not in said(stage)
    require_queued(stage, program)


def test_new_device_is_queued_by_the_next_throttle(stage: Scene) -> None:
    program = stage.start()
    stage.throttle(program)
    host = join(stage.here, stage.peer.endpoint, "veth1", 8)
    download_from(program, host)
    stage.throttle(stage.start())
    require_queued(stage, program)


def test_vanished_device_is_forgotten(stage: Scene) -> None:
    program = stage.start()
    host = join(stage.here, stage.peer.endpoint, "veth1", 8)
    stage.throttle(program)
    download_from(program, host, "gone")
    program.busy_download()
    assert len(attached_devices(stage)) == 2
    ip(stage.here, "link", "del", "veth1")
    require_queued(stage, program)
    assert notes(stage) == []
    stage.throttle(stage.start())
    assert len(attached_devices(stage)) == 1
    assert len(recorded(stage)) == 2  # the queue's own device, and veth0
    require_queued(stage, program)


def test_device_set_down_and_up_stays_queued(stage: Scene) -> None:
    program = stage.start()
    stage.throttle(program)
    ip(stage.here, "link", "set", "veth0", "down")
    stage.throttle(program)  # no device at all is up
    ip(stage.here, "link", "set", "veth0", "up")
    stage.throttle(program)
    program.busy_download()
    require_queued(stage, program)


def test_removed_ifb_limits_by_policing_until_repaired(stage: Scene) -> None:
    program = stage.start()
    program.busy_download()
    stage.throttle(program)
    require_queued(stage, program)
    ip(stage.here, "link", "del", DEVICE)
    require_limited(stage, program)
    assert "removed the queue's device" in said(stage)
    (rule,) = stage.listing().rules
    assert rule.down is not None
    assert rule.down.policed_share
    stage.throttle(stage.start())
    assert "removed the queue's device" not in said(stage)
    require_queued(stage, program)


def test_ifb_set_down_is_told_of_and_repaired(stage: Scene) -> None:
    """What is redirected to it is lost till then, all of it: a program cannot see that a device is down."""
    program = stage.start()
    program.busy_download()
    stage.throttle(program)
    ip(stage.here, "link", "set", DEVICE, "down")
    assert "set it down" in said(stage)
    limits.listing(stage.base, repair=True)
    assert "set it down" not in said(stage)
    assert gets_faster(program.received, 0.5 * LIMIT, 3)
    require_queued(stage, program)


def test_ifb_without_its_htb_is_repaired(stage: Scene) -> None:
    program = stage.start()
    program.busy_download()
    stage.throttle(program)
    tc(stage.here, "qdisc", "del", "dev", DEVICE, "root")
    stage.throttle(stage.start())
    require_queued(stage, program)


@pytest.mark.parametrize("mtu", [9000, 1280])
def test_any_mtu(mtu: int, stage: Scene) -> None:
    for endpoint in stage.here, stage.peer.endpoint:
        ip(endpoint, "link", "set", "veth0", "mtu", str(mtu))
    program = stage.start()
    program.busy_download()
    stage.throttle(program)
    require_queued(stage, program)


def test_packets_longer_than_classes_take_are_policed(stage: Scene) -> None:
    """And are queued again from the next command on."""
    program = stage.start()
    stage.throttle(program)
    for endpoint in stage.here, stage.peer.endpoint:
        ip(endpoint, "link", "set", "veth0", "mtu", "9000")
    program.busy_download()
    require_limited(stage, program)
    assert goes_through_queue(stage, program, seconds=0.3) < 0.5
    stage.throttle(stage.start())
    require_queued(stage, program)
