"""A download over a device without link header, and over a bridge."""

import os
import select
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from benchmarks.wan.tun import open_tun
from chadthrottle.enforce.queue import place
from tests.support.network import Endpoint
from tests.support.queued import (
    attached_devices,
    datagrams,
    download_from,
    goes_through_queue,
    ip,
    receive_datagrams,
    require_queued,
)
from tests.support.rates import within
from tests.support.throttled import LIMIT, Program, Scene


@contextmanager
def tunnel(here: Endpoint, there: Endpoint) -> Iterator[str]:
    """Two tun devices, and threads that carry what one sends to the other; the far address."""
    with ExitStack() as stack:
        ends = [open_tun(endpoint.namespace, "tun0", offload=False) for endpoint in (here, there)]
        for fd in ends:
            stack.callback(os.close, fd)
        for endpoint, host in (here, 1), (there, 2):
            ip(endpoint, "address", "add", f"10.213.9.{host}/24", "dev", "tun0")
            ip(endpoint, "link", "set", "tun0", "up")
        ended = threading.Event()

        def carry() -> None:
            while not ended.is_set():
                for fd in select.select(ends, [], [], 0.1)[0]:
                    os.write(ends[1 - ends.index(fd)], os.read(fd, 1 << 17))

        thread = threading.Thread(target=carry)
        thread.start()
        stack.callback(thread.join)
        stack.callback(ended.set)
        yield "10.213.9.2"


def test_tun_download_is_queued(stage: Scene) -> None:
    with tunnel(stage.here, stage.peer.endpoint) as host:
        program = stage.start()
        download_from(program, host)
        stage.throttle(program)
        require_queued(stage, program)


def test_redirect_from_tun_loses_nothing(stage: Scene) -> None:
    with tunnel(stage.here, stage.peer.endpoint):
        program = stage.start()
        receive_datagrams(program, "down", 6000)
        stage.throttle(program)
        with datagrams(stage.peer.endpoint, 6001, ("10.213.9.1", 6000), 1000, pause_s=0.01):
            assert within(5, lambda: program.received() >= 100_000)
        assert within(1, lambda: int(program.ask("len(ages['down']) * 1000")) == program.received())
        assert goes_through_queue_so_far(stage, program) == 1
        (rule,) = stage.listing().rules
        assert rule.down is not None
        assert rule.down.dropped_packets == 0


def goes_through_queue_so_far(stage: Scene, program: Program) -> float:
    (rule,) = stage.listing().rules
    assert rule.process.pid == program.pid
    assert rule.down is not None
    assert rule.down.policed_share is not None
    return 1 - rule.down.policed_share


def under_a_bridge(endpoint: Endpoint) -> None:
    """The veth becomes a port, its address the bridge's."""
    ip(endpoint, "link", "add", "br0", "type", "bridge")
    ip(endpoint, "link", "set", "br0", "up")
    enslave(endpoint)


def enslave(endpoint: Endpoint) -> None:
    ip(endpoint, "address", "flush", "dev", "veth0")
    ip(endpoint, "link", "set", "veth0", "master", "br0")
    ip(endpoint, "address", "add", f"{endpoint.ipv4}/24", "dev", "br0")


def test_bridge_is_queued_once(stage: Scene) -> None:
    under_a_bridge(stage.here)
    program = stage.start()
    program.busy_download()
    stage.throttle(program)
    assert len(attached_devices(stage)) == 1
    require_queued(stage, program)


def test_bridge_and_its_port_charge_once(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    under_a_bridge(stage.here)
    monkeypatch.setattr(place, "_PORTS", ())
    program = stage.start()
    program.busy_download()
    stage.throttle(program)
    assert len(attached_devices(stage)) == 2
    require_queued(stage, program)


def test_device_that_became_a_port_charges_once(stage: Scene) -> None:
    ip(stage.here, "link", "add", "br0", "type", "bridge")
    ip(stage.here, "link", "set", "br0", "up")
    program = stage.start()
    stage.throttle(program)
    assert len(attached_devices(stage)) == 2
    enslave(stage.here)
    program.busy_download()
    require_queued(stage, program)
    stage.throttle(program, down=2 * LIMIT)  # its program goes, the bridge's stays
    assert len(attached_devices(stage)) == 1
    stage.throttle(program)
    assert goes_through_queue(stage, program) == 1
