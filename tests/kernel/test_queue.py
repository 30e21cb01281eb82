"""Downloads held by a queue: what goes through it, what does not, and that nothing of it stays."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chadthrottle.enforce.hooks import open_pinned, pins_of_this_version
from chadthrottle.enforce.queue import records
from chadthrottle.model import Engine
from tests.support.network import Endpoint
from tests.support.patience import patient
from tests.support.throttled import LIMIT, Scene, scene


@pytest.fixture
def stage(netns_pair: tuple[Endpoint, Endpoint], leaf_cgroup: Path, bpffs: Path) -> Iterator[Scene]:
    with scene(netns_pair, leaf_cgroup, bpffs) as made:
        yield made


def rate(counter: Callable[[], int], seconds: float = 1.0) -> float:
    """bytes/s"""
    before, began = counter(), time.monotonic()
    time.sleep(seconds)
    return (counter() - before) / (time.monotonic() - began)


def tc(endpoint: Endpoint, *words: str) -> str:
    done = subprocess.run(["tc", "-n", endpoint.namespace, *words], check=True, capture_output=True, text=True)
    return done.stdout


def recorded(stage: Scene) -> list[records.Record]:
    pins = pins_of_this_version(stage.base)
    with pins.lock(create=False), open_pinned(pins) as hooks:
        return records.read(hooks.queues)


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_a_running_download_is_queued(ipv6: bool, stage: Scene) -> None:
    program = stage.start()
    program.busy_download(ipv6=ipv6)
    done = stage.throttle(program)
    assert done.notes == ()
    assert done.state.down is not None
    assert done.state.down.engine is Engine.QUEUE
    time.sleep(1)  # what was lost while it settled is sent again, and until then nothing reaches the program
    assert 0.8 * LIMIT < rate(program.received, 2) < 1.05 * LIMIT
    (rule,) = stage.listing().rules
    assert rule.down is not None
    assert rule.down.policed_share == 0
    stage.release(program)
    assert "chadthrottle" not in subprocess.check_output(["ip", "-n", stage.here.namespace, "link"], text=True)
    assert tc(stage.here, "filter", "show", "dev", stage.here.device, "ingress") == ""
    time.sleep(patient(0.2))
    assert rate(program.received) > 4 * LIMIT
