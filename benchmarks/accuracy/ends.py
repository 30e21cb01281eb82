"""The ends of a benchmark's traffic as processes, and the network between them."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.accuracy.cells import Cell
from benchmarks.wan import wan
from chadthrottle.model import Direction
from tests.support.network import Endpoint, veth_pair
from tools.build_ebpf import ROOT

__all__ = ["End", "network", "settings_of", "total", "traffic", "wait_until_under_way"]

TRAFFIC = Path(__file__).with_name("traffic.py")
UNLIMITED_S = 0.3
"""The traffic runs that long before it is limited: its windows are as large as they get."""
UNDER_WAY_BYTES, PATIENCE_S = 20_000_000, 5.0
"""What all flows together have moved before that; IPv6 takes a second to find its neighbour on a new device."""


class End:
    """One process of traffic.py, or of another program that is told and asked the same."""

    def __init__(
        self,
        endpoint: Endpoint,
        settings: dict[str, Any],
        program: Sequence[str] = (sys.executable, str(TRAFFIC)),
        pass_fds: Sequence[int] = (),
    ) -> None:
        command = endpoint.command(*program, json.dumps(settings))
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, pass_fds=pass_fds
        )
        self.pid = self._process.pid

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def mark(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("mark\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.line())
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def settings_of(cell: Cell, far: Endpoint) -> dict[str, Any]:
    """What both ends are told."""
    return {
        "address": far.ipv6 if cell.ipv6 else far.ipv4,
        "protocol": cell.protocol,
        "flows": cell.flows,
        "congestion": cell.congestion,
        "trickle": cell.trickle,
        "datagram": cell.datagram,
        "offered_per_s": cell.offered_datagrams_per_s,
    }


@contextmanager
def traffic(cell: Cell, near: Endpoint, far: Endpoint, cgroup: Path | None = None) -> Iterator[tuple[End, End]]:
    """Both ends at work: the limited one, in the cgroup if any, and its peer."""
    settings = settings_of(cell, far)
    up = cell.direction is Direction.UP
    with ExitStack() as stack:
        peer = End(far, settings | {"role": "peer", "sends": not up, "cgroup": ""})
        stack.callback(peer.end)
        assert peer.line() == "listening"
        limited = End(near, settings | {"role": "limited", "sends": up, "cgroup": str(cgroup or "")})
        stack.callback(limited.end)
        limited.mark()
        peer.mark()
        yield limited, peer


@contextmanager
def network(cell: Cell) -> Iterator[tuple[Endpoint, Endpoint]]:
    """Two namespaces, with that round trip between them."""
    if not cell.rtt_ms:
        with veth_pair() as pair:
            yield pair
        return
    with wan(cell.rtt_ms / 2000) as long_way:
        yield long_way.near, long_way.far
        if dropped := sum(way.dropped for way in long_way.end()):
            print(f"the relay dropped {dropped} packets: the next row has its losses, too", file=sys.stderr, flush=True)


def wait_until_under_way(cell: Cell, sender: End, enough_bytes: int = UNDER_WAY_BYTES) -> None:
    """Until the flows have moved what they need to be as fast as they get, or patience is over."""
    deadline = time.monotonic() + PATIENCE_S
    while cell.protocol == "tcp" and total(sender.mark()["flows"], "acked") < enough_bytes:
        if time.monotonic() > deadline:
            break  # the row will show it
        time.sleep(0.02)
    time.sleep(UNLIMITED_S)


def total(flows: Sequence[dict[str, int]], what: str) -> int:
    """A number of all flows."""
    return sum(flow[what] for flow in flows)
