"""Whatever a limited program downloads by: its socket is found, or it is policed."""

import pytest

from chadthrottle.abi import ThrottleDirection
from tests.support.queued import datagrams, goes_through_queue, receive_datagrams, require_queued, require_rate
from tests.support.rates import gets_faster
from tests.support.throttled import IPPROTO_MPTCP, LIMIT, MPTCP, SINK, SOURCE, Scene


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "unconnected"])
def test_udp(connected: bool, stage: Scene) -> None:
    program = stage.start()
    receive_datagrams(program, "down", 6000, connected_to=(stage.peer.endpoint.ipv4, 6100) if connected else None)
    stage.throttle(program)
    with datagrams(stage.peer.endpoint, 6100, (stage.here.ipv4, 6000), 1200):
        require_queued(stage, program)


def test_udp_over_ipv6(stage: Scene) -> None:
    program = stage.start()
    program.do("sockets['down'] = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)")
    program.do("sockets['down'].bind(('::', 6000)); receive_on('down')")
    stage.throttle(program)
    stage.peer.flood(stage.here.ipv6, 6000)
    require_queued(stage, program)


def test_fragments_are_policed(stage: Scene) -> None:
    """They have no ports, and no socket until they are put together."""
    program = stage.start()
    receive_datagrams(program, "down", 6000)
    stage.throttle(program)
    with datagrams(stage.peer.endpoint, 6100, (stage.here.ipv4, 6000), 4000):
        require_rate(program.received, 0.5 * LIMIT, 1.2 * LIMIT)
        assert goes_through_queue(stage, program) == 0


def test_fragments_have_what_the_queue_leaves(stage: Scene) -> None:
    """What is queued and what is policed share one limit."""
    program = stage.start()
    receive_datagrams(program, "fragments", 6001)
    receive_datagrams(program, "whole", 6000)
    stage.throttle(program)
    with (
        datagrams(stage.peer.endpoint, 6101, (stage.here.ipv4, 6001), 4000),
        datagrams(stage.peer.endpoint, 6100, (stage.here.ipv4, 6000), 1200),
    ):
        both = ("fragments", "whole")
        require_rate(lambda: sum(map(program.received, both)), 0.6 * LIMIT, 1.2 * LIMIT)


@pytest.mark.parametrize("before", [True, False], ids=["made before", "made after"])
def test_accepted_connections(before: bool, stage: Scene) -> None:
    """Their first packets are their listener's."""
    program = stage.start()
    listening = f"listen('listener', socket.AF_INET, {stage.here.ipv4!r}, 7000)"
    if before:
        program.do(listening)
    stage.throttle(program)
    if not before:
        program.do(listening)
    stage.peer.connect(stage.here.ipv4, 7000, SOURCE)
    program.do("accept('listener', 'down'); receive_on('down')")
    require_queued(stage, program)


def test_accepted_ipv6_connection(stage: Scene) -> None:
    program = stage.start()
    stage.throttle(program)
    program.do("listen('listener', socket.AF_INET6, '::', 7000)")
    stage.peer.connect(stage.here.ipv6, 7000, SOURCE)
    program.do("accept('listener', 'down'); receive_on('down')")
    require_queued(stage, program)


def test_ipv4_on_an_ipv6_socket(stage: Scene) -> None:
    program = stage.start()
    stage.throttle(program)
    program.do("listen('listener', socket.AF_INET6, '::', 7000)")
    stage.peer.connect(stage.here.ipv4, 7000, SOURCE)
    program.do("accept('listener', 'down'); receive_on('down')")
    require_queued(stage, program)


@pytest.mark.parametrize("running", [True, False], ids=["running", "new"])
def test_mptcp(running: bool, stage: Scene) -> None:
    program = stage.start()
    if not running:
        stage.throttle(program)
    program.connect("down", SOURCE + MPTCP, protocol=IPPROTO_MPTCP)
    program.do("receive_on('down')")
    if running:
        stage.throttle(program)
    require_queued(stage, program)


def test_new_connection_of_a_child(stage: Scene) -> None:
    program = stage.start()
    stage.throttle(program)
    child = program.fork()
    child.busy_download()
    require_rate(child.received)
    assert goes_through_queue(stage, program) == 1


def test_neighbours_packets_are_not_queued(stage: Scene) -> None:
    program, neighbour = stage.start(), stage.start()
    program.busy_download()
    stage.throttle(program)
    neighbour.busy_download()
    assert gets_faster(neighbour.received, 3 * LIMIT, 2)


def test_acknowledgements_of_an_upload_come_through(stage: Scene) -> None:
    """An upload without limit, whose ACKs are beside a download at its limit."""
    program = stage.start()
    stage.throttle(program, up=None)
    program.busy_download()
    program.connect("up", SINK)
    program.do("send_on('up')")
    assert gets_faster(program.sent, LIMIT, 3)
    assert stage.passed(program, ThrottleDirection.DOWN) > 0
