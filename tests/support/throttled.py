"""A scene for limits: programs that do as told, a peer that takes and gives all it can, and the commands."""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chadthrottle import limits
from chadthrottle.abi import ThrottleDirection
from chadthrottle.enforce.hooks import Hooks, open_pinned, pins_of_this_version
from chadthrottle.enforce.membership import members
from chadthrottle.enforce.rules import Rule, all_rules
from chadthrottle.limits import Listing, Released, Throttled
from chadthrottle.model import AttachPoint, Direction, ProcessIdentity, RuleSpec
from chadthrottle.procs import read_stat
from tests.support.driven import send_steadily
from tests.support.network import Endpoint
from tests.support.patience import FACTOR, patient

__all__ = ["LIMIT", "SINK", "SINK_UDP", "SOURCE", "Peer", "Program", "Scene", "scene"]

PROJECT = Path(__file__).parents[2]
LIMIT = 1_000_000 if FACTOR == 1 else 250_000  # what an emulated machine carries is less
"""bytes/s; a small part of what the pair of devices carries."""

SINK, SOURCE, SINK_UDP = 5001, 5002, 5003
MPTCP = 10
"""Added to the peer's TCP ports: the same, with MPTCP."""
IPPROTO_MPTCP = 262
BLOCK = bytes(1 << 16)


class Peer:
    """Everybody else's end: takes what comes, and gives without end, from threads of the test."""

    def __init__(self, endpoint: Endpoint, stack: ExitStack) -> None:
        self.endpoint = endpoint
        self.received: dict[int, int] = {}
        """By the other end's port."""
        self._stack = stack
        for offset, protocol in (0, 0), (MPTCP, IPPROTO_MPTCP):
            for port in SINK, SOURCE:
                listener = self._socket(socket.SOCK_STREAM, protocol)
                listener.bind(("::", port + offset))
                listener.listen(100)
                self._start(self._accept, listener, port)
        sink = self._socket(socket.SOCK_DGRAM)
        sink.bind(("::", SINK_UDP))
        self._start(self._take_datagrams, sink)

    def connect(self, address: str, port: int, role: int) -> int:
        """To a program's listener, as SINK or SOURCE; our port."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.endpoint.entered():
            made = socket.socket(family, socket.SOCK_STREAM)
        self._stack.callback(_hang_up, made)
        made.connect((address, port))
        self._start(self._serve, made, role)
        return int(made.getsockname()[1])

    def flood(self, address: str, port: int) -> None:
        """Datagrams, at DATAGRAM_BYTES_PER_S."""
        made = self._socket(socket.SOCK_DGRAM)

        def loop() -> None:
            with suppress(OSError):
                send_steadily(lambda: made.sendto(BLOCK[:1200], (_mapped(address), port)), 1200)

        self._start(loop)

    def _socket(self, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
        with self.endpoint.entered():
            made = socket.socket(socket.AF_INET6, kind, protocol)
        self._stack.callback(_hang_up, made)
        return made

    def _start(self, action: Any, *arguments: Any) -> None:
        threading.Thread(target=action, args=arguments, daemon=True).start()

    def _accept(self, listener: socket.socket, role: int) -> None:
        with suppress(OSError):
            while True:
                accepted, _ = listener.accept()
                self._stack.callback(_hang_up, accepted)
                self._start(self._serve, accepted, role)

    def _serve(self, connection: socket.socket, role: int) -> None:
        with suppress(OSError):
            port = connection.getpeername()[1]
            while role == SOURCE:
                connection.sendall(BLOCK)
            while data := connection.recv(1 << 18):
                self.received[port] = self.received.get(port, 0) + len(data)

    def _take_datagrams(self, sink: socket.socket) -> None:
        with suppress(OSError):
            while True:
                data, sender = sink.recvfrom(1 << 16)
                if sender is None:  # shut down
                    return
                self.received[sender[1]] = self.received.get(sender[1], 0) + len(data)


class Starter:
    """The parent of all programs: a process that has Python's start behind it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def start(self, **where: str) -> None:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "tests.support.driven"]
            self._process = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        print(json.dumps(where), file=self._process.stdin, flush=True)

    def end(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None


starter = Starter()
atexit.register(starter.end)


@dataclass
class Program:
    """A process running tests/support/driven.py."""

    pid: int
    _scene: "Scene"
    _channel: socket.socket
    _lines: Any
    _pidfd: int

    def do(self, code: str) -> None:
        """Execute Python in it; its exception fails the test."""
        self._order({"execute": code})

    def ask(self, expression: str) -> Any:
        return self._order({"evaluate": expression})

    def fork(self) -> "Program":
        pid = self.ask("fork()")
        child = self._scene.next_program()
        assert child.pid == pid
        return child

    def execute(self, *names: str) -> None:
        """exec(2), from a thread that is not the main one."""
        self._send({"execute": f"execute(*{names!r})"})
        after = self._scene.next_program()
        assert after.pid == self.pid
        self._channel.close()
        self._channel, self._lines = after._channel, after._lines

    def connect(self, name: str, port: int, *, ipv6: bool = False, udp: bool = False, **more: Any) -> None:
        """To the peer."""
        peer = self._scene.peer.endpoint
        family, host = (socket.AF_INET6, peer.ipv6) if ipv6 else (socket.AF_INET, peer.ipv4)
        kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
        self.do(f"connect({name!r}, {int(family)}, {int(kind)}, {host!r}, {port}, **{more!r})")

    def busy_upload(self, name: str = "up", **more: Any) -> None:
        """Connect to the peer and send without end."""
        self.connect(name, SINK_UDP if more.get("udp") else SINK, **more)
        self.do(f"send_on({name!r})")

    def busy_download(self, name: str = "down", **more: Any) -> None:
        self.connect(name, SOURCE, **more)
        self.do(f"receive_on({name!r})")

    def sent(self, name: str = "up") -> int:
        """What has arrived at the peer."""
        return self._scene.peer.received.get(self.port(name), 0)

    def port(self, name: str) -> int:
        return int(self.ask(f"sockets[{name!r}].getsockname()[1]"))

    def received(self, name: str = "down") -> int:
        return int(self.ask(f"counted.get({name!r}, 0)"))

    def pacing(self, name: str) -> int:
        """SO_MAX_PACING_RATE as the application sees it."""
        return int(self.ask(f"sockets[{name!r}].getsockopt(socket.SOL_SOCKET, 47) & 0xffffffff"))

    def hang_up(self) -> None:
        self._lines.close()
        self._channel.close()

    def end(self) -> None:
        """And wait until it is gone, if it is not yet."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        select.select([self._pidfd], [], [], patient(5))
        os.close(self._pidfd)

    def kill(self) -> None:
        """And wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + patient(5)
        while (stat := read_stat(self.pid)) is not None and not stat.is_dead:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def _send(self, order: dict[str, str]) -> None:
        self._lines.write(json.dumps(order) + "\n")
        self._lines.flush()

    def _order(self, order: dict[str, str]) -> Any:
        self._send(order)
        answer = json.loads(self._lines.readline())
        assert answer["failed"] is None, f"in the program, told to {order}:\n{answer['failed']}"
        return answer["value"]


@dataclass
class Scene:
    """Programs in one namespace and cgroup, the peer in the other namespace, hooks at the cgroup."""

    here: Endpoint
    peer: Peer
    cgroup: Path
    base: Path
    """Where our pins are."""
    _control: socket.socket
    _path: str
    _programs: list[Program] = field(default_factory=list)

    @property
    def at(self) -> AttachPoint:
        return AttachPoint(str(self.cgroup))

    def start(self, endpoint: Endpoint | None = None) -> Program:
        starter.start(path=self._path, cgroup=str(self.cgroup), namespace=(endpoint or self.here).namespace)
        return self.next_program()

    def next_program(self) -> Program:
        """The one that connects next."""
        channel, _ = self._control.accept()
        channel.settimeout(patient(20))
        lines = channel.makefile("rw", encoding="utf-8")
        pid = json.loads(lines.readline())["value"]
        program = Program(pid, self, channel, lines, os.pidfd_open(pid))
        self._programs.append(program)
        return program

    def spec(self, pid: int, up: int | None = LIMIT, down: int | None = LIMIT, **more: Any) -> RuleSpec:
        stat = read_stat(pid)
        assert stat is not None
        process = ProcessIdentity(pid, stat.start_ticks, stat.name)
        return RuleSpec(process=process, rate_up_bytes_per_s=up, rate_down_bytes_per_s=down, at=self.at, **more)

    def throttle(self, program: Program, up: int | None = LIMIT, down: int | None = LIMIT, **more: Any) -> Throttled:
        return limits.throttle(self.spec(program.pid, up, down, **more), self.base)

    def release(self, *programs: Program, directions: frozenset[Direction] = frozenset(Direction)) -> Released:
        """Of all, if none is named."""
        return limits.release([each.pid for each in programs] or None, directions, self.base)

    def listing(self) -> Listing:
        return limits.listing(self.base)

    def limited(self) -> set[int]:
        """The PIDs in the listing."""
        return {rule.process.pid for rule in self.listing().rules}

    def members(self, program: Program) -> set[int]:
        """The processes of a program's rule."""
        with self._rule(program) as (hooks, found):
            return {each.pid for each in members(hooks, found.id)}

    def counted_processes(self, program: Program) -> int:
        """How many the kernel counts; its rule ends at none."""
        with self._rule(program) as (_, found):
            return int(found.meter.processes)

    def passed(self, program: Program, direction: ThrottleDirection = ThrottleDirection.UP) -> int:
        """Packets that a program's rule has let pass."""
        with self._rule(program) as (_, found):
            return int(found.meter.count[direction].passed_packets)

    def rules(self) -> list[Rule]:
        """As they stand in the kernel."""
        pins = pins_of_this_version(self.base)
        with pins.lock(create=False), open_pinned(pins) as hooks:
            return list(all_rules(hooks))

    @contextmanager
    def _rule(self, program: Program) -> Iterator[tuple[Hooks, Rule]]:
        pins = pins_of_this_version(self.base)
        with pins.lock(create=False), open_pinned(pins) as hooks:
            yield hooks, next(rule for rule in all_rules(hooks) if rule.leader.pid == program.pid)

    def end(self) -> None:
        for program in self._programs:
            program.hang_up()
        for program in self._programs:
            program.end()


@contextmanager
def scene(pair: tuple[Endpoint, Endpoint], cgroup: Path, bpffs: Path) -> Iterator[Scene]:
    """Ends the programs, then all limits."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="ct-scene-"))
        control = stack.enter_context(socket.socket(socket.AF_UNIX))
        control.bind(f"{directory}/control")
        control.listen(100)
        control.settimeout(patient(20))
        made = Scene(pair[0], Peer(pair[1], stack), cgroup, bpffs / "chadthrottle", control, f"{directory}/control")
        stack.callback(lambda: limits.release(None, base=made.base))
        stack.callback(made.end)
        yield made


def _hang_up(connection: socket.socket) -> None:
    """Wakes the threads that wait for it, too."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _mapped(address: str) -> str:
    return address if ":" in address else f"::ffff:{address}"
