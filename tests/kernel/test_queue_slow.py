"""At low rates a single packet takes its time: what waits is little all the same, and ACKs get by."""

import re
import socket
import time

import pytest

from tests.support.network import Endpoint
from tests.support.queued import DEVICE, tc
from tests.support.rates import rate, within
from tests.support.throttled import LIMIT, Program, Scene

SLOW = 20_000
SEGMENT = 1514
BURST = 40


@pytest.fixture
def program(stage: Scene) -> Program:
    """Downloads without end."""
    made = stage.start()
    made.busy_download()
    return made


def waiting_bytes(endpoint: Endpoint) -> int:
    """In all classes of the queue."""
    shown = tc(endpoint, "-s", "class", "show", "dev", DEVICE)
    return sum(int(each) for each in re.findall(r"backlog (\d+)b", shown))


def test_a_lowered_limit_does_not_keep_what_waits(stage: Scene, program: Program) -> None:
    """A tenth of a second at the old rate would be minutes at the new one."""
    stage.throttle(program, up=None, down=20 * LIMIT)
    assert within(5, lambda: waiting_bytes(stage.here) > 30 * SEGMENT)
    stage.throttle(program, up=None, down=SLOW)
    assert waiting_bytes(stage.here) <= 4 * SEGMENT


def test_of_what_goes_first_the_newest_stay(stage: Scene, program: Program) -> None:
    """An ACK says all that those before it say: were the newest dropped, its sender would wait for a timeout."""
    program.do("sockets['small'] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
    program.do("sockets['small'].bind(('', 6000)); sockets['small'].settimeout(5)")
    stage.throttle(program, up=None, down=SLOW)
    with stage.peer.endpoint.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(BURST):
            sender.sendto(bytes([number]) * 60, (stage.here.ipv4, 6000))
    arrived = [program.ask("sockets['small'].recv(100)[0]")]
    while arrived[-1] < BURST - 1:
        arrived.append(program.ask("sockets['small'].recv(100)[0]"))
    assert len(arrived) < BURST / 2


def test_release_returns_what_waits(stage: Scene, program: Program) -> None:
    """Also where the packet sent last is a debt of some time: what waits is neither lost nor late."""
    stage.throttle(program, up=None, down=SLOW)
    time.sleep(1)
    assert waiting_bytes(stage.here) > 0
    stage.release(program)
    assert rate(program.received, 1) > 20 * LIMIT
