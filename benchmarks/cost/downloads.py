"""Three downloads at once: two that queues hold at 2 and 20 Mbit/s, and one beside them without a limit.

on    the limited ones are sent all that goes, and a rule each holds them in the queue
off   their senders keep to the same rates by SO_MAX_PACING_RATE, and nothing of ours is in the kernel
"""

import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from statistics import mean, median, quantiles
from typing import NamedTuple

from benchmarks.cost.place import place
from tests.support.throttled import Program, Scene

__all__ = ["Measured", "measure", "report"]

LIMITS = (250_000, 2_500_000)
"""bytes/s: 2 and 20 Mbit/s."""
ROUNDS = 20
SETTLE_S, WINDOW_S, LIMITED_S = 0.3, 0.4, 6
SO_MAX_PACING_RATE, UNPACED = 47, -1  # ~0U: no limit
PORTS = (5031, 5032, 5033)
BOUNDS, TARGET = (0.98, 1.02), 0.98


class Measured(NamedTuple):
    """What came out."""

    ratios: list[float]
    """The unlimited download's rate, on ÷ off, a round each: the means of two windows."""
    control: list[float]
    """The same with nothing on."""
    unlimited: float
    """bytes/s of payload, off, the median."""
    achieved: tuple[float, ...]
    """By limit: what passed the queue in some seconds, of the limit; link-level bytes."""


class _Bench:
    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        *limited, (_, self.unlimited) = [self._download(port) for port in PORTS]
        self.senders, self.limited = zip(*limited, strict=True)
        self.hold_itself()

    def _download(self, port: int) -> tuple[Program, Program]:
        peer = self.scene.peer.endpoint
        sender, receiver = self.scene.start(peer), self.scene.start()
        sender.do(f"listen('listener', {int(socket.AF_INET)}, {peer.ipv4!r}, {port})")
        receiver.connect("down", port)
        sender.do("accept('listener', 'up'); send_on('up')")
        receiver.do("receive_on('down')")
        return sender, receiver

    def limit(self) -> None:
        self._pace((UNPACED,) * len(LIMITS))
        for program, rate in zip(self.limited, LIMITS, strict=True):
            self.scene.throttle(program, None, rate)

    def hold_itself(self) -> None:
        self.scene.release()
        self._pace(LIMITS)

    def _pace(self, rates: tuple[int, ...]) -> None:
        for sender, rate in zip(self.senders, rates, strict=True):
            sender.do(f"sockets['up'].setsockopt(socket.SOL_SOCKET, {SO_MAX_PACING_RATE}, {rate})")

    def window(self) -> float:
        """bytes/s of the unlimited one."""
        time.sleep(SETTLE_S)
        before, began = self.unlimited.received(), time.monotonic()
        time.sleep(WINDOW_S)
        return (self.unlimited.received() - before) / (time.monotonic() - began)

    def achieved(self) -> tuple[float, ...]:
        """Of the limits, by the kernel's meters, while all three go on."""
        self.limit()
        time.sleep(1)
        readings = []
        for _ in range(2):
            moved = {rule.leader.pid: int(rule.meter.count[1].passed_bytes) for rule in self.scene.rules()}
            readings.append((time.monotonic(), [moved[program.pid] for program in self.limited]))
            time.sleep(LIMITED_S)
        ((began, before), (ended, after)) = next(pairwise(readings))
        rates = [(b - a) / (ended - began) for a, b in zip(before, after, strict=True)]
        return tuple(rate / limit for rate, limit in zip(rates, LIMITS, strict=True))


def measure() -> Measured:
    """Rounds and their control in turn, both mirrored every other time."""
    with place() as (scene, _):
        bench = _Bench(scene)
        bench.window()
        achieved = bench.achieved()
        ratios: list[float] = []
        control: list[float] = []
        off: list[float] = []
        for number in range(ROUNDS):
            for limits, into in (True, ratios), (False, control):
                without, with_ = _round(bench, mirrored=bool(number % 2), limits=limits)
                into.append(with_ / without)
                off.append(without)
        return Measured(ratios, control, median(off), achieved)


def _round(bench: _Bench, *, mirrored: bool, limits: bool) -> tuple[float, float]:
    """off, on, on, off: a drift of the machine is in both alike."""
    windows: dict[bool, list[float]] = {False: [], True: []}
    for on in (True, False, False, True) if mirrored else (False, True, True, False):
        if on and limits:
            bench.limit()
        else:
            bench.hold_itself()
        windows[on].append(bench.window())
    return mean(windows[False]), mean(windows[True])


def report(measured: Measured) -> Iterator[str]:
    """The section of the page."""
    yield "Three TCP downloads at once in one cgroup, on one device: two that a queue holds at 2 and 20 Mbit/s, and one"
    yield "without a limit. *On*: the limited ones are sent all that goes. *Off*: their senders pace themselves to the"
    yield f"same rates, and nothing of ours is in the kernel. {ROUNDS} rounds of four windows of {WINDOW_S} s, off, on,"
    yield "on, off, every other one the other way round. The control is rounds with nothing on."
    yield ""
    yield "| of the unlimited download | median | quartiles | least | most |"
    yield "|---|---|---|---|---|"
    for name, values in ("rate, on ÷ off", measured.ratios), ("rate, control", measured.control):
        low, _, high = quantiles(values, n=4)
        yield f"| {name} | **{median(values):.3f}** | {low:.3f} to {high:.3f} | {min(values):.3f} | {max(values):.3f} |"
    yield ""
    met = "met" if median(measured.ratios) >= TARGET else "**not met**"
    yield f"- Target, a rate of at least {TARGET} by the median: {met}."
    yield f"- It moved {measured.unlimited * 8 / 1e9:.2f} Gbit/s off (payload, the median)."
    for limit, ratio in zip(LIMITS, measured.achieved, strict=True):
        low, high = BOUNDS
        verdict = f"in bounds ({low}-{high})" if low <= ratio <= high else f"**not in bounds** ({low}-{high})"
        yield f"- The one at {limit * 8 / 1e6:g} Mbit/s: {ratio:.3f} of it over {LIMITED_S} s, {verdict}."
