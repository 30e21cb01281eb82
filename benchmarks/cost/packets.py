"""Nanoseconds that the egress and the ingress program take for a packet, by the kernel's own count.

BPF_ENABLE_STATS counts runs and time of every program. One program sends and receives over veth, in turn with
its socket untagged, tagged and limited in the other direction only, limited far above its rate, and limited so
that packets are dropped; and each of that beside 1, 100 and 10 000 rules.
"""

import ctypes
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.cost.place import place
from chadthrottle.abi import ThrottleMeter, ThrottleRule
from chadthrottle.bpf.cgroup_link import attach_cgroup
from chadthrottle.bpf.constants import AttachType, BpfCmd
from chadthrottle.bpf.links import Link
from chadthrottle.bpf.programs import Program as BpfProgram
from chadthrottle.bpf.syscall import bpf
from chadthrottle.enforce.hooks import Hooks, open_pinned, pins_of_this_version
from chadthrottle.enforce.rules import all_rules
from tests.support.raw_programs import load_for
from tests.support.throttled import Scene

__all__ = ["Cell", "measure", "report", "statistics"]

COUNTS = (1, 100, 10_000)
REPEAT = 7
SECONDS = 0.12
"""Of traffic, for each figure."""
PAUSE_S = 0.25
"""After packets were dropped: the bucket's debt is paid by then."""

FAST, SLOW = 12_500_000_000, 125_000  # bytes/s
ECHO = 5010
UDP_BYTES, UDP_IN_FLIGHT, TCP_BYTES = 1000, 16, 16384

# uapi/linux/bpf.h: enum bpf_stats_type
BPF_STATS_RUN_TIME = 0

NOTHING = "a program that only returns"
UNTAGGED, TAGGED, LIMITED, DROPPED = KINDS = (
    "untagged",
    "tagged, the other direction limited",
    "limited, passed",
    "limited, dropped",
)

TALK = f"""
def talk_udp():
    one, block = sockets["udp"], bytes({UDP_BYTES})
    one.settimeout(0.1)
    end = time.monotonic() + {SECONDS}
    while time.monotonic() < end:
        for _ in range({UDP_IN_FLIGHT}):
            one.send(block)
        with suppress(TimeoutError):
            for _ in range({UDP_IN_FLIGHT}):
                one.recv({UDP_BYTES})

def talk_tcp():
    one, block = sockets["tcp"], bytes({TCP_BYTES})
    end = time.monotonic() + {SECONDS}
    while time.monotonic() < end:
        one.sendall(block)
        one.recv({TCP_BYTES}, socket.MSG_WAITALL)

def blast_udp():
    one, block = sockets["udp"], bytes({UDP_BYTES})
    end = time.monotonic() + {SECONDS}
    while time.monotonic() < end:
        with suppress(OSError):
            one.send(block)
"""


class EnableStats(ctypes.Structure):
    """union bpf_attr of BPF_ENABLE_STATS."""

    _fields_ = [("type", ctypes.c_uint32)]


class Cell(NamedTuple):
    """What one figure is about."""

    hook: str
    protocol: str
    kind: str
    rules: int


Samples = dict[Cell, list[float]]
"""ns per packet, one for each repetition, in their order."""


class _Counter:
    """Runs and time of one program since the last look."""

    def __init__(self, program: BpfProgram) -> None:
        self._program = program
        self._runs = self._ns = 0
        self.ns_per_run()

    def ns_per_run(self) -> float:
        """0 if it did not run."""
        info = self._program.info()
        runs, ns = info.run_count - self._runs, info.run_time_ns - self._ns
        self._runs, self._ns = info.run_count, info.run_time_ns
        return ns / runs if runs else 0.0


class _Echo:
    """The peer: sends back what comes, by UDP and TCP; in its namespace, outside of the hooks' cgroup."""

    def __init__(self, scene: Scene, stack: ExitStack) -> None:
        with scene.peer.endpoint.entered():
            self._udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        stack.callback(_wake, self._udp, listener)
        for one in self._udp, listener:
            one.bind((scene.peer.endpoint.ipv4, ECHO))
        listener.listen()
        threading.Thread(target=self._answer_datagrams, daemon=True).start()
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def blast(self, to: tuple[str, int]) -> None:
        """Datagrams without end, for as long as a figure takes."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            self._udp.sendto(bytes(UDP_BYTES), to)

    def _answer_datagrams(self) -> None:
        with suppress(OSError):
            while True:
                data, sender = self._udp.recvfrom(UDP_BYTES)
                if sender is None:  # shut down
                    return
                self._udp.sendto(data, sender)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._answer_stream, args=(listener.accept()[0],), daemon=True).start()

    @staticmethod
    def _answer_stream(one: socket.socket) -> None:
        with one, suppress(OSError):
            while data := one.recv(1 << 18):
                one.sendall(data)


def _wake(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextmanager
def statistics() -> Iterator[None]:
    """Counted for as long as the descriptor is open; the sysctl stays as it is."""
    fd = bpf(BpfCmd.BPF_ENABLE_STATS, EnableStats(type=BPF_STATS_RUN_TIME))
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def _fillers(hooks: Hooks, number: int) -> Iterator[None]:
    """So many more rules, and their meters, in the maps: of nobody, but the kernel cannot tell."""
    keys = [key.to_bytes(8, "little") for key in range(1, number + 1)]
    rule = ThrottleRule(armed=1)
    for rate in rule.rate:
        rate.bytes_per_s, rate.burst_ns = SLOW, 200_000_000
    try:
        hooks.meters.update_batch((key, bytes(ThrottleMeter())) for key in keys)
        hooks.rules.update_batch((key, bytes(rule)) for key in keys)
        yield
    finally:
        hooks.rules.delete_batch(keys)
        hooks.meters.delete_batch(keys)


class _Bench:
    """All that takes part."""

    def __init__(self, scene: Scene, echo: _Echo) -> None:
        self.echo, self.address = echo, scene.here.ipv4
        self.bystander, self.limited = scene.start(), scene.start()
        for program in self.bystander, self.limited:
            program.connect("udp", ECHO, udp=True)
            program.connect("tcp", ECHO)
            program.do(TALK)

    def measure(self, hooks: Hooks, counters: dict[str, _Counter]) -> Samples:
        """All cells in turn, REPEAT times, so that each meets the same machine."""
        self.hooks, self.counters = hooks, counters
        self.samples: Samples = {}
        with statistics():
            for repetition in range(REPEAT):
                # There and back, so that neither few nor many rules always come first.
                for rules in COUNTS if repetition % 2 else reversed(COUNTS):
                    with _fillers(hooks, rules - 1):
                        self._once(rules)
        return self.samples

    def _once(self, rules: int) -> None:
        for kind, program, hooks, rates in (
            (UNTAGGED, self.bystander, ("egress", "ingress", NOTHING), (FAST, FAST)),
            (TAGGED, self.limited, ("egress",), (0, FAST)),
            (TAGGED, self.limited, ("ingress",), (FAST, 0)),
            (LIMITED, self.limited, ("egress", "ingress"), (FAST, FAST)),
        ):
            self._set_rates(*rates)
            for protocol in "udp", "tcp":
                self._look()
                program.do(f"talk_{protocol}()")
                for hook in hooks:
                    self._take(Cell(hook, protocol, kind, rules))
        self._set_rates(SLOW, SLOW)
        self._look()
        self.limited.do("blast_udp()")
        self._take(Cell("egress", "udp", DROPPED, rules))
        self._look()
        self.echo.blast((self.address, self.limited.port("udp")))
        self._take(Cell("ingress", "udp", DROPPED, rules))
        self._set_rates(FAST, FAST)
        time.sleep(PAUSE_S)

    def _set_rates(self, up: int, down: int) -> None:
        """Where the programs read them: a command would end the rules that nobody belongs to."""
        own = next(rule for rule in all_rules(self.hooks) if rule.leader.pid == self.limited.pid)
        for rate, wanted in zip(own.rule.rate, (up, down), strict=True):
            rate.bytes_per_s = wanted
        self.hooks.rules.update(own.id.to_bytes(8, "little"), bytes(own.rule))

    def _look(self) -> None:
        for counter in self.counters.values():
            counter.ns_per_run()

    def _take(self, cell: Cell) -> None:
        self.samples.setdefault(cell, []).append(self.counters[cell.hook].ns_per_run())


def measure() -> Samples:
    """ns per packet of every cell."""
    with ExitStack() as stack:
        scene = stack.enter_context(place())[0]
        bench = _Bench(scene, _Echo(scene, stack))
        scene.throttle(bench.limited, FAST, FAST)
        pins = pins_of_this_version(scene.base)
        programs = {NOTHING: stack.enter_context(_program_of_two_instructions(scene.cgroup))}
        for name in "egress", "ingress":
            with Link.open_pinned(pins.directory / "links" / name) as link:
                programs[name] = stack.enter_context(BpfProgram.by_id(link.program_id))
        hooks = stack.enter_context(open_pinned(pins))
        return bench.measure(hooks, {name: _Counter(program) for name, program in programs.items()})


@contextmanager
def _program_of_two_instructions(cgroup: Path) -> Iterator[BpfProgram]:
    """Beside our hooks, on egress: what counting itself costs."""
    with load_for(AttachType.BPF_CGROUP_INET_EGRESS) as program, attach_cgroup(program, cgroup, method="link"):
        yield program


def report(samples: Samples) -> Iterator[str]:
    """The section of the page."""
    nothing = median(ns for cell, found in samples.items() if cell.hook == NOTHING for ns in found)
    yield "A real rule on a real process; the hooks sit on a leaf cgroup."
    yield f"{UDP_IN_FLIGHT} datagrams of {UDP_BYTES} bytes to and fro, or {TCP_BYTES} bytes of TCP to and fro: a"
    yield "GSO or GRO packet counts as one, and some are bare ACKs. Run time by BPF_ENABLE_STATS,"
    yield f"{REPEAT} times {SECONDS} s each, all cells in turn: the median, in brackets the least and the most; ratios"
    yield "by what was measured side by side."
    yield ""
    yield f"- A program that only returns takes {nothing:.0f} ns by this count: subtract that for what is ours."
    yield "- The limit is 100 Gbit/s (passed) or 1 Mbit/s (dropped); it is changed in the rule's map entry."
    yield "- The other rules are written into the maps `rules` and `meters` by the benchmark, without processes: one"
    yield "  socket's packets look up one key among so many. What 10 000 busy rules do to the caches is not in this."
    yield ""
    yield "| hook | packets | ns, 1 rule | 100 | 10 000 | of untagged, 1 rule | 100 rules ÷ 1 | 10 000 rules ÷ 1 |"
    yield "|---|---|---|---|---|---|---|---|"
    for hook in "egress", "ingress":
        for protocol in "udp", "tcp":
            for kind in KINDS:
                cells = [samples.get(Cell(hook, protocol, kind, rules)) for rules in COUNTS]
                if None in cells:
                    continue
                untagged = samples[Cell(hook, protocol, UNTAGGED, COUNTS[0])]
                few, *many = found = [cell for cell in cells if cell is not None]
                columns = [spread(values) for values in found]
                columns += [f"{ratio(few, untagged):.2f}", *(f"**{ratio(each, few):.2f}**" for each in many)]
                yield f"| {hook} | {protocol} {kind} | {' | '.join(columns)} |"


def spread(values: Sequence[float]) -> str:
    """The median and the extremes."""
    return f"{median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


def ratio(some: Sequence[float], of: Sequence[float]) -> float:
    """The median of what was measured side by side: the machine's mood is in both."""
    return median(each / other for each, other in zip(some, of, strict=True))
