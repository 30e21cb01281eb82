"""The limited programs and their peer: one thread each, a look at every socket some twenty times a second.

A program has 32 sockets, TCP and UDP, IPv4 and IPv6: most idle, some trickle, some send or receive in bulk. Every byte
of TCP is accounted for in the end: a connection says how much it took when the other side says that this is all.
"""

import ctypes
import json
import mmap
import os
import random
import resource
import selectors
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

from tests.support.network import Endpoint

__all__ = ["PROGRAMS", "SOCKETS", "Board", "Mode", "fork", "peer", "program"]

PROGRAMS = 32
SOCKETS = 32

SINK, SOURCE, DATAGRAMS = 5001, 5002, 5003
TICK_S = 0.05
BULK_BYTES = 32_768
BLOCK = bytes(1 << 18)
PROOF_BYTES = 4_000_000
PATIENCE_S = 20.0
SILENT_S = 5.0
"""A connection that nothing limits any more may not be silent for longer."""
# At 4 kB/s three packets wait for 1.1 s. The peer's retransmission timeout becomes 3.5 s then (ss), and doubles when
# that packet is lost as well: what is silent may be waiting for it, whatever we release.
SILENT_DOWN_S = 15.0
SO_MAX_PACING_RATE = 47
UNLIMITED_PACING = 0xFFFF_FFFF
OWN_PACING = 5_000_000
PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
TOTAL = struct.Struct("=Q")


class Mode(IntEnum):
    """What everybody is to do."""

    CHAOS = 0
    STEADY = 1
    """As in chaos, but nobody is made or ended, and no rule either."""
    QUIET = 2
    PROOF = 3


class Board:
    """Memory that all processes share: the mode, the programs' PIDs, which commands are at work."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)

    @property
    def mode(self) -> Mode:
        return Mode(self._memory[0])

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._memory[0] = mode

    def set_busy(self, commander: int, busy: bool) -> None:
        self._memory[8 + commander] = busy

    def is_busy(self, commander: int) -> bool:
        return bool(self._memory[8 + commander])

    def set_pid(self, slot: int, pid: int) -> None:
        struct.pack_into("=I", self._memory, 64 + 4 * slot, pid)

    def pid(self, slot: int) -> int:
        return int(struct.unpack_from("=I", self._memory, 64 + 4 * slot)[0])


def fork(action: Callable[[], None], endpoint: Endpoint | None = None, cgroup: Path | None = None) -> int:
    """A child that does this and ends; its PID."""
    pid = os.fork()
    if pid == 0:
        _live(action, endpoint, cgroup)
    return pid


def _live(action: Callable[[], None], endpoint: Endpoint | None, cgroup: Path | None) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text("0", "ascii")
        if endpoint is None:
            action()
        else:
            with endpoint.entered():
                action()
        status = 0
    finally:
        os._exit(status)


# The peer


class _Accepted:
    """One connection of the peer."""

    def __init__(self, connection: socket.socket, source: bool) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.source = source
        self.total = 0

    def readable(self) -> bool:
        """Take what is there; False when it is over."""
        try:
            data = self.connection.recv(1 << 18)
        except BlockingIOError:
            return True
        except OSError:  # the program was killed
            return False
        if self.source and data:
            return self._close_books()
        self.total += len(data)
        return bool(data) or self._close_books()

    def tick(self) -> bool:
        """Give, if that is what it is for."""
        if self.source:
            try:
                self.total += self.connection.send(BLOCK[:BULK_BYTES])
            except BlockingIOError:
                pass
            except OSError:
                return False
        return True

    def _close_books(self) -> bool:
        """Says how much there was."""
        with suppress(OSError):
            self.connection.settimeout(PATIENCE_S)
            self.connection.sendall(TOTAL.pack(self.total))
            self.connection.shutdown(socket.SHUT_WR)
        return False


def peer(board: Board, ready: socket.socket) -> None:
    """Take from SINK, give at SOURCE, answer datagrams; until killed."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (16_384, 16_384))
    watched = selectors.DefaultSelector()
    for port in SINK, SOURCE:
        listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
        watched.register(listener, selectors.EVENT_READ, listener)
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.bind(("::", DATAGRAMS))
    datagrams.setblocking(False)
    watched.register(datagrams, selectors.EVENT_READ)
    sources: set[_Accepted] = set()
    ready.send(b"x")
    next_tick = time.monotonic()
    while True:
        for key, _ in watched.select(max(0, next_tick - time.monotonic())):
            if isinstance(key.data, socket.socket):
                _accept(key.data, watched, sources)
            elif key.data is None:
                _answer(datagrams)
            elif not key.data.readable():
                _forget(key.data, watched, sources)
        if time.monotonic() >= next_tick:
            next_tick = time.monotonic() + TICK_S
            for source in list(sources) if board.mode in (Mode.CHAOS, Mode.STEADY) else ():
                if not source.tick():
                    _forget(source, watched, sources)


def _accept(listener: socket.socket, watched: selectors.BaseSelector, sources: set[_Accepted]) -> None:
    accepted = _Accepted(listener.accept()[0], listener.getsockname()[1] == SOURCE)
    watched.register(accepted.connection, selectors.EVENT_READ, accepted)
    if accepted.source:
        sources.add(accepted)


def _answer(datagrams: socket.socket) -> None:
    """The first byte says how many datagrams are wanted."""
    with suppress(BlockingIOError):
        for _ in range(100):
            data, sender = datagrams.recvfrom(2048)
            for _ in range(data[0]):
                datagrams.sendto(BLOCK[:1000], sender)


def _forget(accepted: _Accepted, watched: selectors.BaseSelector, sources: set[_Accepted]) -> None:
    watched.unregister(accepted.connection)
    sources.discard(accepted)
    accepted.connection.close()


# A program


class _Program:
    """One limited program."""

    def __init__(self, slot: int, seed: int, there: Endpoint, board: Board, report: socket.socket) -> None:
        self.slot = slot
        self.dice = random.Random(seed)  # noqa: S311 # to be repeated
        self.there = there
        self.board = board
        self.report = report
        self.sent: dict[socket.socket, int] = {}
        self.children = 0
        self.bulk = [self.stream(SINK, ipv6=False), self.stream(SINK, ipv6=True)]
        self.down = self.stream(SOURCE, ipv6=bool(slot % 2))
        self.received, self.tail = 0, b""
        self.trickling = [self.stream(SINK, ipv6=bool(number % 2)) for number in range(4)]
        self.idle = [self.stream(SINK, ipv6=bool(number % 2)) for number in range(16)]
        self.datagrams = [self.packets(ipv6=bool(number % 2)) for number in range(SOCKETS - 23)]
        self.own_pacing = {self.bulk[1]: OWN_PACING} if slot % 2 else {}
        for each, rate in self.own_pacing.items():
            each.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate)

    @property
    def streams(self) -> list[socket.socket]:
        """Those that send."""
        return [*self.bulk, *self.trickling, *self.idle]

    def stream(self, port: int, *, ipv6: bool) -> socket.socket:
        made = socket.create_connection((self.there.ipv6 if ipv6 else self.there.ipv4, port), timeout=PATIENCE_S)
        made.setblocking(False)
        # Killed, it resets its connections. What is queued in one that nobody has any more is sent when its pacing
        # timer fires, a minute later at 1 kB/s, on no rule's account.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sent[made] = 0
        return made

    def packets(self, *, ipv6: bool) -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        made.connect((self.there.ipv6 if ipv6 else self.there.ipv4, DATAGRAMS))
        made.setblocking(False)
        return made

    def tick(self) -> None:
        """A twentieth of a second's traffic."""
        if self.board.mode in (Mode.CHAOS, Mode.STEADY):
            for each in self.bulk:
                self.send(each, BULK_BYTES)
            for each in self.trickling:
                if self.dice.random() < 0.3:
                    self.send(each, self.dice.randint(1, 500))
            for each in self.datagrams[:3]:
                for _ in range(8 if self.slot % 4 == 0 else 1):
                    with suppress(BlockingIOError):
                        # Every third is answered.
                        each.send(bytes([each is self.datagrams[2]]) + BLOCK[: self.dice.randint(1, 1300)])
        for each in self.datagrams[:3]:
            with suppress(BlockingIOError):
                while True:
                    each.recv(2048)
        self.take()
        if self.board.mode is Mode.CHAOS and self.slot % 4 == 1 and self.dice.random() < 0.1:
            self.beget()

    def send(self, connection: socket.socket, size: int) -> None:
        with suppress(BlockingIOError):
            self.sent[connection] += connection.send(BLOCK[:size])

    def take(self) -> bool:
        """What has come down; False at its end."""
        with suppress(BlockingIOError):
            while data := self.down.recv(1 << 18):
                self.received += len(data)
                self.tail = (self.tail + data[-8:])[-8:]
            return False
        return True

    def beget(self) -> None:
        """A child with connections of its own, and sometimes one of its own, for less than a second."""
        lasts, again, seed = self.dice.random(), self.dice.random() < 0.3, self.dice.random()
        if os.fork():
            return
        try:
            if again and os.fork():
                os._exit(0)
            dice = random.Random(seed)  # noqa: S311
            connection, packets = self.stream(SINK, ipv6=dice.random() < 0.5), self.packets(ipv6=dice.random() < 0.5)
            end = time.monotonic() + lasts
            while time.monotonic() < end:
                self.send(connection, dice.randint(1, 20_000))
                with suppress(BlockingIOError):
                    packets.send(b"\0" + BLOCK[: dice.randint(1, 1300)])
                time.sleep(TICK_S)
        except OSError as error:
            self.say(problem=f"child of program {self.slot}: {error!r}")
        finally:
            os._exit(0)

    def say(self, **what: object) -> None:
        self.report.send(json.dumps(what).encode())

    def proof(self) -> dict[str, object]:
        """Once nothing is limited: every connection lives, lost nothing, and is as fast as before."""
        problems = []
        for each in (*self.streams, self.down):
            pacing = each.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE) & 0xFFFF_FFFF
            if pacing != self.own_pacing.get(each, UNLIMITED_PACING):
                problems.append(f"{_name(each)} has kept a pacing rate of {pacing} bytes/s")
        fast = 0.0
        for each in self.streams:
            size = PROOF_BYTES if each is self.bulk[0] else 1
            began = time.monotonic()
            try:
                problems += self.prove(each, size)
            except OSError as error:
                problems.append(f"{_name(each)}: {error!r}: {_state(each)}")
            if each is self.bulk[0]:
                fast = size / (time.monotonic() - began)
        problems += self.prove_down()
        problems += [f"{_name(each)} has no answer" for each in self.datagrams if not _is_answered(each)]
        return {"problems": [f"program {self.slot}: {problem}" for problem in problems], "bytes_per_s": round(fast)}

    def prove(self, connection: socket.socket, size: int) -> list[str]:
        """So many bytes more, and the peer has all there ever were. Raises OSError."""
        connection.settimeout(SILENT_S)
        connection.sendall(bytes(size))
        self.sent[connection] += size
        connection.shutdown(socket.SHUT_WR)
        took = TOTAL.unpack(connection.recv(8, socket.MSG_WAITALL))[0]
        return [f"{_name(connection)}: sent {self.sent[connection]} bytes, {took} arrived"] * (
            took != self.sent[connection]
        )

    def prove_down(self) -> list[str]:
        """The peer says how much there was, last."""
        self.down.settimeout(SILENT_DOWN_S)
        try:
            self.down.send(b"x")
            while self.take():
                pass
        except OSError as error:
            port = self.down.getsockname()[1]
            command = self.there.command("ss", "-tinmoH", "dport", "=", f":{port}")
            seen = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
            return [f"{_name(self.down)}: {error!r}: {_state(self.down)}; the peer: {' '.join(seen)}"]
        given = TOTAL.unpack(self.tail)[0]
        return [f"{_name(self.down)}: of {given} bytes {self.received - 8} arrived"] * (given != self.received - 8)


def program(slot: int, seed: int, there: Endpoint, board: Board, report: socket.socket) -> None:
    """Live until it is killed, or asked for its proof."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    report.settimeout(TICK_S)
    made = _Program(slot, seed, there, board, report)
    made.say(ready=True)
    while True:
        with suppress(TimeoutError):
            if not report.recv(16):
                return
            made.say(**made.proof())
            return
        try:
            made.tick()
        except OSError as error:
            made.say(problem=f"program {slot}: {error!r}")
            return


def _is_answered(datagrams: socket.socket) -> bool:
    datagrams.settimeout(0.3)
    for _ in range(10):
        with suppress(TimeoutError):
            datagrams.send(b"\1")
            datagrams.recv(2048)
            return True
    return False


def _state(connection: socket.socket) -> str:
    """Of struct tcp_info (include/uapi/linux/tcp.h), what tells whether and why it waits."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    words = {"rto_us": 8, "unacked": 24, "last_data_sent_ms": 44, "rtt_us": 68, "cwnd": 80, "retransmitted": 100}
    shown = {name: int.from_bytes(info[at : at + 4], "little") for name, at in words.items()}
    shown |= {"state": info[0], "retransmits": info[2], "probes": info[3], "backoff": info[4]}
    shown |= {"pacing_bytes_per_s": int.from_bytes(info[104:112], "little")}
    shown |= {"unsent_bytes": int.from_bytes(info[144:148], "little")}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _name(connection: socket.socket) -> str:
    kind = "UDP" if connection.type == socket.SOCK_DGRAM else "TCP"
    return f"the {kind} socket of port {connection.getsockname()[1]}"
