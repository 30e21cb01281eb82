"""What a limit costs those beside it: an unlimited upload, with and without a limiter at work on its neighbour.

The neighbour moves the same bytes either way, or its own share of the processors would be measured:

    on    it sends all it can, and a rule limits it: our hooks judge the packets of both
    off   it keeps to the same rate by its own SO_MAX_PACING_RATE, and nothing of ours is in the kernel
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import mean, median, quantiles
from typing import NamedTuple

from benchmarks.cost.packets import statistics
from benchmarks.cost.place import place
from chadthrottle.bpf.cgroupfs import cgroup2_mounts
from chadthrottle.bpf.constants import BpfCmd
from chadthrottle.bpf.info import ids
from chadthrottle.bpf.programs import Program as BpfProgram
from tests.support.throttled import Program, Scene

__all__ = ["Measured", "Round", "Window", "measure", "report"]

RATE = 12_500_000
"""bytes/s of the neighbour: 100 Mbit/s."""
ROUNDS = 30
SETTLE_S, WINDOW_S, SHARES_S = 0.12, 0.25, 2.0
SO_MAX_PACING_RATE, UNPACED = 47, -1  # ~0U: no limit
OURS, NEIGHBOURS = 5021, 5022
TARGET = 0.99

SINK = """
def take(name):
    def loop():
        while sockets[name].recv(1 << 20, socket.MSG_TRUNC):
            pass
    threading.Thread(target=loop, daemon=True).start()
"""
# tcpi_bytes_acked: at 120 in struct tcp_info, include/uapi/linux/tcp.h
ACKED = "int.from_bytes(sockets['up'].getsockopt(socket.IPPROTO_TCP, 11, 256)[120:128], 'little')"


class Window(NamedTuple):
    """Rates in bytes/s of payload acknowledged."""

    unlimited: float
    neighbour: float
    per_cpu_second: float
    """Bytes that the unlimited upload moved for a second of processor time, its receiver's included."""


class Round(NamedTuple):
    """Each the mean of two windows."""

    off: Window
    on: Window


class Share(NamedTuple):
    """What one of our programs takes while the unlimited upload runs beside a limit."""

    runs_per_s: float
    ns_per_run: float

    @property
    def part(self) -> float:
        """Of one CPU."""
        return self.runs_per_s * self.ns_per_run / 1e9


class _Bench:
    """Two uploads to two sinks: four processes."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        # Where the scheduler puts them is worth ten times what is measured here.
        first, *_, last = sorted(os.sched_getaffinity(0))
        self.receiver, self.unlimited = self._upload(OURS, first)
        _, self.neighbour = self._upload(NEIGHBOURS, last)
        self.hold_itself()

    def _upload(self, port: int, cpu: int) -> tuple[Program, Program]:
        peer = self.scene.peer.endpoint
        sink, sender = self.scene.start(peer), self.scene.start()
        # The sink's packets are not to meet the hooks a second time.
        outside = next(mount.mount_point for mount in cgroup2_mounts()) / "cgroup.procs"
        sink.do(f"open({str(outside)!r}, 'w').write('0')")
        for program in sink, sender:
            program.do(f"os.sched_setaffinity(0, {{{cpu}}})")
        sink.do(SINK)
        sink.do(f"listen('listener', {int(socket.AF_INET)}, {peer.ipv4!r}, {port})")
        sender.connect("up", port)
        sink.do("accept('listener', 'in'); take('in')")
        sender.do("send_on('up')")
        return sink, sender

    def limit(self) -> None:
        self._pace(UNPACED)
        self.scene.throttle(self.neighbour, RATE, None)

    def hold_itself(self) -> None:
        self.scene.release()
        self._pace(RATE)

    def _pace(self, rate: int) -> None:
        self.neighbour.do(f"sockets['up'].setsockopt(socket.SOL_SOCKET, {SO_MAX_PACING_RATE}, {rate})")

    def window(self) -> Window:
        time.sleep(SETTLE_S)
        before = self._look()
        time.sleep(WINDOW_S)
        unlimited, neighbour, cpu_s, elapsed_s = (b - a for a, b in zip(before, self._look(), strict=True))
        return Window(unlimited / elapsed_s, neighbour / elapsed_s, unlimited / cpu_s)

    def shares(self) -> dict[str, Share]:
        """By the kernel's own count, which slows the programs down; ours are those that come with the limit."""
        self.hold_itself()
        others = set(ids(BpfCmd.BPF_PROG_GET_NEXT_ID))
        self.limit()
        time.sleep(SETTLE_S)
        ours = set(ids(BpfCmd.BPF_PROG_GET_NEXT_ID)) - others
        with ExitStack() as stack:
            programs = [stack.enter_context(BpfProgram.by_id(number)) for number in sorted(ours)]
            stack.enter_context(statistics())
            began, before = time.monotonic(), [program.info() for program in programs]
            time.sleep(SHARES_S)
            elapsed_s, after = time.monotonic() - began, [program.info() for program in programs]
        return {
            b.name: Share((b.run_count - a.run_count) / elapsed_s, (b.run_time_ns - a.run_time_ns) / runs)
            for a, b in zip(before, after, strict=True)
            if (runs := b.run_count - a.run_count)
        }

    def _look(self) -> tuple[float, ...]:
        cpu_s = sum(float(each.ask("time.process_time()")) for each in (self.unlimited, self.receiver))
        return float(self.unlimited.ask(ACKED)), float(self.neighbour.ask(ACKED)), cpu_s, time.monotonic()


class Measured(NamedTuple):
    """What came out."""

    rounds: list[Round]
    control: list[Round]
    """The same with nothing on: what the machine does by itself."""
    shares: dict[str, Share]
    """By program."""


def measure() -> Measured:
    """Rounds and their control in turn, both mirrored every other time."""
    with place() as (scene, _):
        bench = _Bench(scene)
        bench.window()
        measured = Measured([], [], bench.shares())
        for number in range(ROUNDS):
            measured.rounds.append(_round(bench, mirrored=bool(number % 2), limits=True))
            measured.control.append(_round(bench, mirrored=bool(number % 2), limits=False))
        return measured


def _round(bench: _Bench, *, mirrored: bool, limits: bool) -> Round:
    """off, on, on, off: a drift of the machine is in both alike."""
    windows: dict[bool, list[Window]] = {False: [], True: []}
    for on in (True, False, False, True) if mirrored else (False, True, True, False):
        if on and limits:
            bench.limit()
        else:
            bench.hold_itself()
        windows[on].append(bench.window())
    return Round(*(Window(*map(mean, zip(*windows[which], strict=True))) for which in (False, True)))


def report(measured: Measured) -> Iterator[str]:
    """The section of the page."""
    rates, control = ([each.on.unlimited / each.off.unlimited for each in rounds] for rounds in measured[:2])
    work, work_control = (
        [each.on.per_cpu_second / each.off.per_cpu_second for each in rounds] for rounds in measured[:2]
    )
    met = "met" if median(rates) >= TARGET else "**not met**"
    yield "One TCP upload without a limit, and a neighbour in the same cgroup at 100 Mbit/s. *On*: a rule holds the"
    yield "neighbour, which offers all it can. *Off*: nothing of ours is in the kernel, and the neighbour paces itself"
    yield f"to the same rate. {ROUNDS} rounds of four windows of {WINDOW_S} s, off, on, on, off, every other one"
    yield "the other way round; a ratio is that of a round's two means. The control is rounds with nothing on, in turn"
    yield "with them: what the machine does by itself. The upload and its receiver share one CPU, so that whatever the"
    yield "hooks take is missing from its rate; the neighbour has another. Bytes for a second of processor time, of"
    yield "sender and receiver, do not see what else the machine does."
    yield ""
    yield "| of the unlimited upload | median | quartiles | least | most |"
    yield "|---|---|---|---|---|"
    for name, values in (
        ("rate, on ÷ off", rates),
        ("rate, control", control),
        ("bytes per CPU second, on ÷ off", work),
        ("bytes per CPU second, control", work_control),
    ):
        low, _, high = quantiles(values, n=4)
        yield f"| {name} | **{median(values):.3f}** | {low:.3f} to {high:.3f} | {min(values):.3f} | {max(values):.3f} |"
    yield ""
    off, on = (Window(*map(median, zip(*windows, strict=True))) for windows in zip(*measured.rounds, strict=True))
    yield f"- Target, a rate of at least {TARGET} by the median: {met}."
    yield f"- The unlimited upload: {off.unlimited * 8 / 1e9:.2f} Gbit/s off, {on.unlimited * 8 / 1e9:.2f} on; the"
    yield f"  neighbour: {off.neighbour * 8 / 1e6:.0f} Mbit/s off, {on.neighbour * 8 / 1e6:.0f} on (payload, medians)."
    yield ""
    yield "What our programs take of the processors meanwhile, both uploads together (BPF_ENABLE_STATS, whose own"
    yield "share is in it; see above):"
    yield ""
    yield "| program | runs/s | ns | of one CPU |"
    yield "|---|---|---|---|"
    for name, share in sorted(measured.shares.items(), key=lambda item: -item[1].part):
        yield f"| {name} | {share.runs_per_s:.0f} | {share.ns_per_run:.0f} | {share.part:.2%} |"
    yield f"| all | | | **{sum(share.part for share in measured.shares.values()):.2%}** |"
