"""Measures one cell: two namespaces, a veth or a WAN, traffic between two processes, and a real rule on one of them."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.accuracy.cells import Cell
from benchmarks.accuracy.ends import network, total, traffic, wait_until_under_way
from benchmarks.accuracy.machine import wait_for_memory
from benchmarks.wan import Carried, wan
from chadthrottle.abi import ThrottleDirection
from chadthrottle.enforce import hooks as hooks_module
from chadthrottle.enforce import rules
from chadthrottle.limits.throttle import throttle
from chadthrottle.model import AttachPoint, Direction, ProcessIdentity, RuleSpec
from tests.support.bpffs import mount_bpffs, unmount_bpffs
from tests.support.cgroups import cgroup2_root, make_cgroup, remove_cgroup
from tests.support.network import Endpoint

__all__ = ["Result", "Unlimited", "measure", "unlimited"]

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
    retransmitted_late: float
    """Of the second half, as a part of what passed in it: what was under way when the limit came is done with."""
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


def unlimited(cell: Cell, *, offload: bool = True) -> Unlimited:
    """What the WAN carries in the cell's direction without a limit."""
    with wan(cell.rtt_ms / 2000, offload=offload) as between:
        with traffic(cell, between.near, between.far) as (limited, peer):
            sender = limited if cell.direction is Direction.UP else peer
            wait_until_under_way(cell, sender)
            begun, before = time.monotonic(), sender.mark()["flows"]
            time.sleep(CARRIED_S)
            elapsed, after = time.monotonic() - begun, sender.mark()["flows"]
        relay = between.end()
    acked, retransmitted = (total(after, what) - total(before, what) for what in ("acked", "retransmitted"))
    return Unlimited(acked * 8 / elapsed, retransmitted, relay)


@contextmanager
def _place(cell: Cell) -> Iterator[tuple[Endpoint, Endpoint, Path, Path]]:
    """Two namespaces, a leaf cgroup and an empty bpffs of our own."""
    root = cgroup2_root()
    if root is None:
        raise SystemExit("needs cgroup2, and none is mounted")
    with ExitStack() as stack:
        near, far = stack.enter_context(network(cell))
        cgroup = make_cgroup(root)
        stack.callback(remove_cgroup, cgroup)
        bpffs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mount_bpffs(bpffs)
        stack.callback(unmount_bpffs, bpffs)
        yield near, far, cgroup, bpffs


def measure(cell: Cell) -> Result:
    """Limit traffic that is running, and watch its meter second by second."""
    wait_for_memory()
    with _place(cell) as (near, far, cgroup, bpffs), traffic(cell, near, far, cgroup) as (limited, peer):
        sender = limited if cell.direction is Direction.UP else peer
        wait_until_under_way(cell, sender)
        throttle(_spec(cell, limited.pid, cgroup), bpffs / "pins")
        with hooks_module.open_pinned(hooks_module.pins_of_this_version(bpffs / "pins")) as hooks:
            samples = [_sample(hooks, cell)]
            at_start = sender.mark()
            marks = []
            for second in range(1, cell.seconds + 1):
                time.sleep(max(0.0, samples[0].at + second - time.monotonic()))
                samples.append(_sample(hooks, cell))
                if second in (1, cell.seconds // 2, cell.seconds):
                    marks.append(sender.mark())
            died = sender.mark()["died"] + (limited if sender is peer else peer).mark()["died"]
            rules.sweep(hooks)
    return _result(cell, samples, at_start, marks, died)


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
    begun, first, half, last = samples[0], samples[1], samples[cell.seconds // 2], samples[-1]
    retransmitted = [sum(flow["retransmitted"] for flow in mark["flows"]) for mark in (at_start, *marks)]
    moved = [
        after["acked"] - before["acked"] for before, after in zip(marks[0]["flows"], marks[-1]["flows"], strict=True)
    ]
    bulk = moved[:1] if cell.trickle else moved
    offered = None
    if cell.datagram:
        sent = marks[-1]["datagrams"] - marks[0]["datagrams"]
        offered = sent / (last.at - first.at) / cell.offered_datagrams_per_s
    return Result(
        cell=cell,
        first=_ratio(cell, begun, first),
        by_second=tuple(_ratio(cell, *pair) for pair in pairwise(samples[1:])),
        achieved=_ratio(cell, first, last),
        dropped=last.dropped - first.dropped,
        marked=last.marked - first.marked,
        passed=last.passed - first.passed,
        retransmitted=retransmitted[-1] - retransmitted[1],
        retransmitted_first=retransmitted[1] - retransmitted[0],
        retransmitted_late=(retransmitted[-1] - retransmitted[-2]) / max(1, last.passed - half.passed),
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
        engine=cell.engine,
    )
