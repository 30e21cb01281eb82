"""What `list` tells beside the rates, against what the kernel's own counters say."""

from pathlib import Path

import pytest

from chadthrottle.model import Engine
from tests.support.network import Endpoint
from tests.support.throttled import LIMIT, Scene


def segments_sent_again(endpoint: Endpoint) -> int:
    with endpoint.entered():
        names, values = (
            line.split()
            for line in Path("/proc/thread-self/net/snmp").read_text("ascii").splitlines()
            if line[:4] == "Tcp:"
        )
    return int(values[names.index("RetransSegs")])


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_retransmissions(ipv6: bool, stage: Scene) -> None:
    """One connection with a rule at each end: the receiver's bucket drops, the sender sends again, both count it."""
    far = stage.peer.endpoint
    sender, receiver = stage.start(far), stage.start()
    here = stage.here.ipv6 if ipv6 else stage.here.ipv4
    family = "AF_INET6" if ipv6 else "AF_INET"
    receiver.do(f"listen('listener', socket.{family}, {here!r}, 7000)")
    sender.do(f"connect('up', socket.{family}, socket.SOCK_STREAM, {here!r}, 7000)")
    receiver.do("accept('listener', 'down'); receive_on('down')")
    stage.throttle(receiver, up=None, down=LIMIT, engine=Engine.CGROUP)
    stage.throttle(sender, up=50 * LIMIT, down=None)
    before = segments_sent_again(far)
    sender.do("send_on('up')")
    while receiver.received() < 2 * LIMIT:
        pass
    states = {rule.process.pid: rule for rule in stage.listing().rules}
    sent_again = segments_sent_again(far) - before
    up, down = states[sender.pid].up, states[receiver.pid].down
    assert up is not None
    assert down is not None
    assert down.dropped_packets > 50
    # Read one after the other while traffic goes on.
    assert up.retransmitted_packets == pytest.approx(sent_again, rel=0.1)
    assert down.retransmitted_packets == pytest.approx(sent_again, rel=0.1)
