"""At low rates a single packet takes its time: what waits is little all the same, and ACKs get by."""

import re
import socket
import time

import pytest

from chadthrottle.model import Engine
from tests.support.network import Endpoint
from tests.support.queued import DEVICE, tc
from tests.support.rates import rate, within
from tests.support.throttled import LIMIT, Program, Scene

SLOW, VERY_SLOW = 20_000, 1000
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


def test_a_very_low_limit_is_policed(stage: Scene, program: Program) -> None:
    """Queued, its packets would wait for seconds, and the sender's timeout would be a multiple of that."""
    throttled = stage.throttle(program, up=None, down=VERY_SLOW)
    assert any("policed, not queued" in each for each in throttled.notes)
    assert any("so low a rate" in each for each in stage.listing().notes)
    assert engine(stage) is Engine.CGROUP
    time.sleep(3)
    stage.release(program)
    assert within(5, lambda: rate(program.received, 0.2) > 20 * LIMIT)


def test_a_limit_that_becomes_very_low_and_back(stage: Scene, program: Program) -> None:
    for down, means in (LIMIT, Engine.QUEUE), (VERY_SLOW, Engine.CGROUP), (LIMIT, Engine.QUEUE):
        stage.throttle(program, up=None, down=down)
        assert engine(stage) is means
    stage.throttle(program, up=None, down=VERY_SLOW, engine=Engine.QUEUE)
    assert engine(stage) is Engine.QUEUE
    stage.throttle(program, up=LIMIT, down=None)
    assert engine(stage) is Engine.QUEUE, "what is not named stays as it is"


def engine(stage: Scene) -> Engine:
    (state,) = stage.listing().rules
    assert state.down is not None
    return state.down.engine
