"""--scope: the same program, fast towards one kind of peer and limited towards the other."""

import subprocess
import time
from functools import partial

import pytest

from chadthrottle.model import Scope
from tests.support.network import Endpoint
from tests.support.rates import rates
from tests.support.throttled import LIMIT, SINK, SINK_UDP, Scene

UNLIMITED_PACING = 0xFFFFFFFF
FAR = {4: "203.0.113", 6: "2001:db8::"}
"""Networks that are nobody's (RFC 5737, RFC 3849) and not local either."""


@pytest.fixture(autouse=True)
def both_ends_are_far_too(netns_pair: tuple[Endpoint, Endpoint]) -> None:
    for number, endpoint in enumerate(netns_pair, 1):
        for address in f"{FAR[4]}.{number}/24", f"{FAR[6]}{number}/64":
            nodad = ["nodad"] if ":" in address else []
            subprocess.run(
                ["ip", "-n", endpoint.namespace, "address", "add", address, "dev", endpoint.device, *nodad], check=True
            )


@pytest.mark.parametrize("udp", [False, True], ids=["TCP", "UDP"])
@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_only_peers_in_scope_are_limited(ipv6: bool, udp: bool, stage: Scene) -> None:
    program = stage.start()
    program.busy_upload("near", ipv6=ipv6, udp=udp)
    family, host = ("AF_INET6", f"{FAR[6]}2") if ipv6 else ("AF_INET", f"{FAR[4]}.2")
    kind, port = ("SOCK_DGRAM", SINK_UDP) if udp else ("SOCK_STREAM", SINK)
    program.do(f"connect('far', socket.{family}, socket.{kind}, {host!r}, {port}); send_on('far')")
    found = {}
    for scope, limited, free in (Scope.INTERNET, "far", "near"), (Scope.LOCAL, "near", "far"):
        done = stage.throttle(program, scope=scope)
        assert done.state.scope is scope
        time.sleep(0.4)
        found[scope] = rates(partial(program.sent, limited), partial(program.sent, free), seconds=0.6)
        if not udp:
            assert (program.pacing(limited) < 2 * LIMIT, program.pacing(free)) == (True, UNLIMITED_PACING)
    for limited_rate, free_rate in found.values():
        assert 0 < limited_rate < 1.6 * LIMIT
        assert free_rate > 4 * LIMIT
    assert stage.throttle(program, up=2 * LIMIT).state.scope is Scope.LOCAL, "not named, it stays"
