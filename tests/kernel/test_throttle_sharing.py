"""What shares one limit: who gives way must not get nothing."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.network import Endpoint
from tests.support.throttled import LIMIT, Scene, scene


@pytest.fixture
def stage(netns_pair: tuple[Endpoint, Endpoint], leaf_cgroup: Path, bpffs: Path) -> Iterator[Scene]:
    with scene(netns_pair, leaf_cgroup, bpffs) as made:
        yield made


def test_a_flood_of_datagrams_leaves_tcp_its_part(stage: Scene) -> None:
    """Ten times the limit by UDP, which does not slow down, and TCP, which does."""
    program = stage.start()
    program.busy_upload("flood", udp=True)
    program.busy_upload("stream")
    stage.throttle(program, down=None)
    time.sleep(1)
    before, began = {name: program.sent(name) for name in ("flood", "stream")}, time.monotonic()
    time.sleep(2)
    moved = {name: (program.sent(name) - before[name]) / (time.monotonic() - began) for name in before}
    assert moved["stream"] > 0.25 * LIMIT
    assert moved["flood"] > 0.25 * LIMIT
    assert sum(moved.values()) < 1.1 * LIMIT
