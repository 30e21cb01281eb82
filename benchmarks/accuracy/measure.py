"""Measures one cell: two namespaces, a veth or a WAN, traffic between two processes, and a real rule on one of them."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.accuracy.cells import Cell
from benchmarks.wan import Carried, wan
from chadthrottle.abi import ThrottleDirection
from chadthrottle.enforce import hooks as hooks_module
from chadthrottle.enforce import rules
from chadthrottle.limits.throttle import throttle
from chadthrottle.model import AttachPoint, Direction, ProcessIdentity, RuleSpec
from tests.support.bpffs import mount_bpffs, unmount_bpffs
from tests.support.cgroups import cgroup2_root, make_cgroup, remove_cgroup
from tests.support.network import Endpoint, veth_pair

__all__ = ["Result", "Unlimited", "measure", "unlimited"]

TRAFFIC = Path(__file__).with_name("traffic.py")
UNLIMITED_S = 0.3
"""The traffic runs that long before it is limited: its windows are as large as they get."""
UNDER_WAY_BYTES, PATIENCE_S = 20_000_000, 5.0
"""What all flows together have moved before that; IPv6 takes a second to find its neighbour on a new device."""

CARRIED_S = 3.0
"""How long a network is measured without a limit."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came out. Ratios are of the limit."""

    cell: Cell
    first: float
    """The first second after throttle() returned."""
    by_second: tuple[float, ...]
    """Each second after the first."""
    achieved: float
    """After the first second."""
    dropped: int
    marked: int
    passed: int
    retransmitted: int
    """Segments, while the limit stood, the first second excluded."""
    retransmitted_first: int
    fairness: float | None
    """Jain's, over the bulk flows' bytes; None for one flow."""
    silent: int
    """Flows that moved nothing after the first second."""
    died: tuple[str, ...]
    offered: float | None
    """UDP: datagrams offered, as a part of what was meant."""


@dataclass(frozen=True, slots=True)
class Unlimited:
    """A WAN without a limit."""

    bits_per_s: float
    """Payload of TCP that was acknowledged."""
    retransmitted: int
    relay: tuple[Carried, Carried]


class End:
    """One process of traffic.py."""

    def __init__(self, endpoint: Endpoint, settings: dict[str, Any]) -> None:
        command = endpoint.command(sys.executable, str(TRAFFIC), json.dumps(settings))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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


@contextmanager
def _traffic(cell: Cell, near: Endpoint, far: Endpoint, cgroup: Path | None = None) -> Iterator[tuple[End, End]]:
    """Both ends at work: the limited one, in the cgroup if any, and its peer."""
    settings: dict[str, Any] = {
        "address": far.ipv6 if cell.ipv6 else far.ipv4,
        "protocol": cell.protocol,
        "flows": cell.flows,
        "congestion": cell.congestion,
        "trickle": cell.trickle,
        "datagram": cell.datagram,
        "offered_per_s": cell.offered_datagrams_per_s,
    }
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
def _network(cell: Cell) -> Iterator[tuple[Endpoint, Endpoint]]:
    """Two namespaces, with that round trip between them."""
    if not cell.rtt_ms:
        with veth_pair() as pair:
            yield pair
        return
    with wan(cell.rtt_ms / 2000) as network:
        yield network.near, network.far
        if dropped := sum(way.dropped for way in network.end()):
            print(f"the relay dropped {dropped} packets: the next row has its losses, too", file=sys.stderr, flush=True)


def unlimited(cell: Cell, *, offload: bool = True) -> Unlimited:
    """What the WAN carries in the cell's direction without a limit."""
    with wan(cell.rtt_ms / 2000, offload=offload) as network:
        with _traffic(cell, network.near, network.far) as (limited, peer):
            sender = limited if cell.direction is Direction.UP else peer
            _wait_until_under_way(cell, sender)
            begun, before = time.monotonic(), sender.mark()["flows"]
            time.sleep(CARRIED_S)
            elapsed, after = time.monotonic() - begun, sender.mark()["flows"]
        relay = network.end()
    acked, retransmitted = (_sum(after, what) - _sum(before, what) for what in ("acked", "retransmitted"))
    return Unlimited(acked * 8 / elapsed, retransmitted, relay)


def _sum(flows: Sequence[dict[str, int]], what: str) -> int:
    return sum(flow[what] for flow in flows)


@contextmanager
def _place(cell: Cell) -> Iterator[tuple[Endpoint, Endpoint, Path, Path]]:
    """Two namespaces, a leaf cgroup and an empty bpffs of our own."""
    root = cgroup2_root()
    if root is None:
        raise SystemExit("needs cgroup2, and none is mounted")
    with ExitStack() as stack:
        near, far = stack.enter_context(_network(cell))
        cgroup = make_cgroup(root)
        stack.callback(remove_cgroup, cgroup)
        bpffs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mount_bpffs(bpffs)
        stack.callback(unmount_bpffs, bpffs)
        yield near, far, cgroup, bpffs


def measure(cell: Cell) -> Result:
    """Limit traffic that is running, and watch its meter second by second."""
    with _place(cell) as (near, far, cgroup, bpffs), _traffic(cell, near, far, cgroup) as (limited, peer):
        sender = limited if cell.direction is Direction.UP else peer
        _wait_until_under_way(cell, sender)
        throttle(_spec(cell, limited.pid, cgroup), bpffs / "pins")
        with hooks_module.open_pinned(hooks_module.pins_of_this_version(bpffs / "pins")) as hooks:
            samples = [_sample(hooks, cell)]
            at_start = sender.mark()
            marks = []
            for second in range(1, cell.seconds + 1):
                time.sleep(max(0.0, samples[0].at + second - time.monotonic()))
                samples.append(_sample(hooks, cell))
                if second in (1, cell.seconds):
                    marks.append(sender.mark())
            died = sender.mark()["died"] + (limited if sender is peer else peer).mark()["died"]
            rules.sweep(hooks)
    return _result(cell, samples, at_start, marks, died)


def _wait_until_under_way(cell: Cell, sender: End) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while cell.protocol == "tcp" and _sum(sender.mark()["flows"], "acked") < UNDER_WAY_BYTES:
        if time.monotonic() > deadline:
            break  # the row will show it
        time.sleep(0.02)
    time.sleep(UNLIMITED_S)


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    passed_bytes: int
    passed: int
    dropped: int
    marked: int


def _sample(hooks: hooks_module.Hooks, cell: Cell) -> _Sample:
    rule = next(iter(rules.all_rules(hooks)))
    at = time.monotonic()
    which = ThrottleDirection.UP if cell.direction is Direction.UP else ThrottleDirection.DOWN
    count = rule.meter.count[which]
    return _Sample(at, count.passed_bytes, count.passed_packets, count.dropped_packets, count.marked_packets)


def _result(
    cell: Cell,
    samples: Sequence[_Sample],
    at_start: dict[str, Any],
    marks: Sequence[dict[str, Any]],
    died: list[str],
) -> Result:
    begun, first, last = samples[0], samples[1], samples[-1]
    retransmitted = [sum(flow["retransmitted"] for flow in mark["flows"]) for mark in (at_start, *marks)]
    moved = [
        after["acked"] - before["acked"] for before, after in zip(marks[0]["flows"], marks[1]["flows"], strict=True)
    ]
    bulk = moved[:1] if cell.trickle else moved
    offered = None
    if cell.datagram:
        sent = marks[1]["datagrams"] - marks[0]["datagrams"]
        offered = sent / (last.at - first.at) / cell.offered_datagrams_per_s
    return Result(
        cell=cell,
        first=_ratio(cell, begun, first),
        by_second=tuple(_ratio(cell, *pair) for pair in pairwise(samples[1:])),
        achieved=_ratio(cell, first, last),
        dropped=last.dropped - first.dropped,
        marked=last.marked - first.marked,
        passed=last.passed - first.passed,
        retransmitted=retransmitted[2] - retransmitted[1],
        retransmitted_first=retransmitted[1] - retransmitted[0],
        fairness=_jain(bulk),
        silent=sum(not each for each in moved),
        died=tuple(died),
        offered=offered,
    )


def _ratio(cell: Cell, before: _Sample, after: _Sample) -> float:
    return (after.passed_bytes - before.passed_bytes) / (after.at - before.at) / cell.rate


def _jain(shares: Sequence[int]) -> float | None:
    squares = sum(each * each for each in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if len(shares) > 1 and squares else None


def _spec(cell: Cell, pid: int, cgroup: Path) -> RuleSpec:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    start_ticks = int(stat.rpartition(")")[2].split()[19])
    up = cell.direction is Direction.UP
    return RuleSpec(
        process=ProcessIdentity(pid, start_ticks, "traffic"),
        at=AttachPoint(str(cgroup)),
        rate_up_bytes_per_s=cell.rate if up else None,
        rate_down_bytes_per_s=None if up else cell.rate,
    )
