"""One limiter on one kind of traffic: begin the traffic, limit it, look at the same meter whoever limits."""

import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.accuracy.cells import Cell, K, M
from benchmarks.accuracy.ends import UNDER_WAY_BYTES, End, settings_of, total, wait_until_under_way
from benchmarks.field.contenders import Contender
from benchmarks.field.cpu import cpu_seconds, read_cpu
from benchmarks.field.outcome import Outcome, Sample, Seen, outcome, unmeasured
from benchmarks.field.place import Place, Unavailable, built, line_bytes_per_s, place
from chadthrottle.bpf.loader import load
from chadthrottle.bpf.maps import Map
from chadthrottle.bpf.parse import open_object
from chadthrottle.model import Direction

__all__ = ["measure"]

PROGRAM = (sys.executable, "-m", "benchmarks.field.program")
METER = struct.Struct("=QQ")
UNDER_WAY_S = 0.4
"""Of what the line carries, before it is limited."""
GRACE_S = 1.0
"""For answers to requests that were sent while it was measured."""
HANGS_S = 45.0
"""A limiter that holds the program up longer than that, beyond the measurement, hangs."""


def measure(cell: Cell, contender: Contender, seconds: int) -> Outcome:
    """Measure for so many seconds after the first. Whatever goes wrong is in the outcome."""
    try:
        contender.version()
        if why := contender.cannot(cell):
            return unmeasured(cell, contender.key, why)
        with place(cell) as where:
            return outcome(cell, contender.key, _measure(where, cell, contender, seconds))
    except Unavailable as reason:
        return unmeasured(cell, contender.key, str(reason))
    except Exception as error:  # noqa: BLE001 # one limiter that fails must not end the comparison
        return unmeasured(cell, contender.key, f"failed: {type(error).__name__}: {error}".splitlines()[0])


def _measure(where: Place, cell: Cell, contender: Contender, seconds: int) -> Seen:
    with load(open_object(built("meter"))) as loaded:
        meters = {protocol: loaded.programs[f"count_{protocol}"].fd for protocol in ("tcp", "udp")}
        with _traffic(where, cell, contender, meters, seconds) as (limited, peer):
            sender = limited if cell.direction is Direction.UP else peer
            if not contender.starts_with(cell):
                enough_bytes = int(line_bytes_per_s(cell) * UNDER_WAY_S) or UNDER_WAY_BYTES
                wait_until_under_way(cell, sender, enough_bytes)
            with contender.limit(where, cell, limited.pid):
                return _watch(where, loaded.maps["meter"], limited, sender, seconds)


@contextmanager
def _traffic(
    where: Place, cell: Cell, contender: Contender, meters: dict[str, int], seconds: int
) -> Iterator[tuple[End, End]]:
    up = cell.direction is Direction.UP
    # Few enough of them to be a small part of the limit.
    interval_s = 0.02 if cell.rate >= 10 * M else 0.05 if cell.rate > 256 * K else 0.1
    settings = settings_of(cell, where.far) | {"request_interval_s": interval_s, "select": False, "meters": {}}
    ours: dict[str, Any] = {"role": "limited", "sends": up, "cgroup": str(where.limited)}
    theirs: dict[str, Any] = {"role": "peer", "sends": not up, "cgroup": str(where.others)}
    (theirs if up else ours)["meters"] = meters
    start = tuple(contender.starts_with(cell))
    with ExitStack() as stack:
        peer = End(where.far, settings | theirs, PROGRAM, tuple(meters.values()))
        stack.callback(peer.end)
        stack.enter_context(_killed_if_hanging(peer, seconds))
        if peer.line() != "listening":
            raise RuntimeError("the peer did not start")
        limited = End(where.near, settings | ours | {"select": bool(start)}, start + PROGRAM, tuple(meters.values()))
        stack.callback(limited.end)
        stack.enter_context(_killed_if_hanging(limited, seconds))
        limited.mark()
        peer.mark()
        yield limited, peer


@contextmanager
def _killed_if_hanging(end: End, seconds: int) -> Iterator[None]:
    # Not reaped before `end.end()`, so that its number is nobody else's.
    timer = threading.Timer(seconds + HANGS_S, os.kill, (end.pid, signal.SIGKILL))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _watch(where: Place, meter: Map, limited: End, sender: End, seconds: int) -> Seen:
    cgroups = (where.limited, where.others)
    samples, retransmitted, cpu = [_sample(meter)], [], []
    for second in range(1, seconds + 2):
        time.sleep(max(0.0, samples[0].at + second - time.monotonic()))
        samples.append(_sample(meter))
        if second in (1, seconds + 1):
            cpu.append(read_cpu(time.monotonic(), cgroups))
            retransmitted.append(total(sender.mark()["flows"], "retransmitted"))
    state = _answers(limited, samples[-1].at)
    return Seen(
        samples=samples,
        retransmitted=retransmitted[1] - retransmitted[0],
        idle_s=state["idle_s"],
        answered=[(sent, took) for sent, took in state["answered"]],
        waiting=state["waiting"],
        now=state["now"],
        cpu_s=cpu_seconds(cpu[0], cpu[1], os.cpu_count() or 1),
        died=state["died"] + (sender.mark()["died"] if sender is not limited else []),
    )


def _answers(limited: End, until: float) -> dict[str, Any]:
    deadline = time.monotonic() + GRACE_S
    while True:
        state = limited.mark()
        if time.monotonic() > deadline or not any(sent <= until for sent in state["waiting"]):
            return state
        time.sleep(0.1)


def _sample(meter: Map) -> Sample:
    value = meter.lookup(bytes(4))
    assert value is not None
    wire_bytes, packets = METER.unpack(value)
    return Sample(time.monotonic(), wire_bytes, packets)
