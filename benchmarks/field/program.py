"""One end of the traffic that all limiters get: bulk, and small requests of the same program beside it.

    python -m benchmarks.field.program '{"role": …}'

As accuracy/traffic.py, but one thread does it all: a library that is preloaded into the limited program (trickle) knows
no threads, and whatever holds up the bulk must not hold up the asking. A request is sent when it is due, whether or
not the one before was answered, so that a slow limiter is not asked less often than a fast one.
"""

import ctypes
import errno
import json
import os
import selectors
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.accuracy.traffic import CHUNK, PORT, ROOM, Traffic

REQUEST_PORT = PORT + 1
REQUEST_BYTES = 64
IDLE_REQUESTS = 15
"""Before there is bulk: what a request takes by itself."""
DATAGRAM_PAUSE_S = 0.001
SO_ATTACH_BPF = 50  # include/uapi/asm-generic/socket.h

Ready = Callable[[socket.socket], object]


class Program(Traffic):
    """The limited program or its peer. `state` adds what became of the requests."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.limited = settings["role"] == "limited"
        self.asking: socket.socket | None = None
        # trickle lets a program that selects have 16 times its limit when it reads or writes 1 MiB at a time.
        self.block = 1 << 16 if settings["select"] else len(CHUNK)
        self.idle_s = 0.0
        self.waiting: deque[float] = deque()
        """When the requests without an answer were sent."""
        self.answered: list[tuple[float, float]] = []
        """When a request was sent, and how long its answer took."""
        self.unsent = b""
        self.half_an_answer = 0
        self.started = time.monotonic()
        self.next_request = self.started

    def open(self) -> None:
        """Requests first, alone; then the bulk's flows."""
        if self.limited:
            self.asking = self._request_socket()
        else:
            answer_requests(self.settings["address"], self.family, self._metered)
        if self.settings["select"]:
            self.sockets = [self._prepared(self._connected(PORT)) for _ in range(self.settings["flows"])]
        else:
            super().open()
        for one in self.sockets:
            one.setblocking(False)
            self._metered(one, self.settings["protocol"])

    def _metered(self, one: socket.socket, protocol: str = "tcp") -> None:
        # When the program is killed its connections end with it. Else the kernel goes on sending what they still have,
        # and keeps filter and namespace for that long.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        if number := self.settings["meters"].get(protocol):
            one.setsockopt(socket.SOL_SOCKET, SO_ATTACH_BPF, number)

    def _connected(self, port: int) -> socket.socket:
        address = (self.settings["address"], port)
        if not self.settings["select"]:
            return socket.create_connection(address)
        # trickle overlooks a socket made with SOCK_CLOEXEC in one step, and Python makes no other.
        made = socket.socket(fileno=ctypes.CDLL(None).socket(self.family, socket.SOCK_STREAM, 0))
        made.connect(address)
        return made

    def _request_socket(self) -> socket.socket:
        with socket.create_connection((self.settings["address"], REQUEST_PORT)) as idle:
            self.idle_s = median(time_of_an_answer(idle) for _ in range(IDLE_REQUESTS))
        made = self._connected(REQUEST_PORT)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._metered(made)
        made.setblocking(False)
        return made

    def run(self) -> None:
        """Until stdin closes."""
        chosen = selectors.SelectSelector if self.settings["select"] else selectors.DefaultSelector
        udp = self.settings["protocol"] == "udp"
        sends = self.settings["sends"]
        self.started = self.next_request = time.monotonic()
        with chosen() as selector:
            selector.register(sys.stdin, selectors.EVENT_READ, self._obey)
            if self.asking:
                selector.register(self.asking, selectors.EVENT_READ, self._take_answers)
            if not (udp and sends):
                event, do = (
                    (selectors.EVENT_WRITE, self._send_on) if sends else (selectors.EVENT_READ, self._receive_on)
                )
                for one in self.sockets:
                    selector.register(one, event, do)
            while True:
                for key, _ in self._ready(selector, self._pause(offers=udp and sends)):
                    try:
                        key.data(key.fileobj)
                    except BlockingIOError:
                        pass
                    except OSError as error:
                        self.died[key.fd] = error.strerror or str(error)
                        selector.unregister(key.fileobj)
                if self.asking:
                    self._ask(self.asking)
                if udp and sends:
                    self._offer()

    def _ready(self, selector: selectors.BaseSelector, pause: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        try:
            return selector.select(pause)
        except OSError as error:
            if not self.settings["select"] or error.errno != errno.EINVAL:
                raise
            return []  # trickle's select(2) passes negative times on, which a program that survives it asks again

    def _pause(self, *, offers: bool) -> float | None:
        pause = max(0.0, self.next_request - time.monotonic()) if self.asking else None
        return min(DATAGRAM_PAUSE_S, pause or DATAGRAM_PAUSE_S) if offers else pause

    def _ask(self, asking: socket.socket) -> None:
        while (now := time.monotonic()) >= self.next_request:
            self.waiting.append(now)
            self.unsent += bytes(REQUEST_BYTES)
            self.next_request += self.settings["request_interval_s"]
        if self.unsent:
            with suppress(BlockingIOError):
                self.unsent = self.unsent[asking.send(self.unsent) :]

    def _take_answers(self, asking: socket.socket) -> None:
        got = len(asking.recv(1 << 16))
        if not got:
            raise ConnectionResetError("closed")
        now = time.monotonic()
        complete, self.half_an_answer = divmod(self.half_an_answer + got, REQUEST_BYTES)
        for _ in range(complete):
            sent = self.waiting.popleft()
            self.answered.append((sent, now - sent))

    def _send_on(self, one: socket.socket) -> None:
        one.send(CHUNK[: self.block])

    def _receive_on(self, one: socket.socket) -> None:
        if not one.recv_into(ROOM, self.block) and self.settings["protocol"] == "tcp":
            raise ConnectionResetError("closed")

    def _offer(self) -> None:
        """The datagrams that are due."""
        one, rate = self.sockets[0], self.settings["offered_per_s"]
        datagram = CHUNK[: self.settings["datagram"]]
        due = int((time.monotonic() - self.started) * rate)
        self.datagrams = max(self.datagrams, int(due - rate / 10))  # was held up: no catching up
        while self.datagrams < due:
            self.datagrams += 1
            try:
                one.send(datagram)
            except BlockingIOError:  # a limiter holds back what was sent before; what is refused was offered
                continue
            except OSError as error:
                self.died[one.fileno()] = error.strerror or str(error)

    def _obey(self, _: socket.socket) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            os._exit(0)  # whoever asked is gone
        self._say(json.dumps(self.state()))

    def state(self) -> dict[str, Any]:
        """Flows as ever; times in seconds, and of time.monotonic(), which all processes share."""
        requests = {"idle_s": self.idle_s, "answered": self.answered, "waiting": list(self.waiting)}
        return super().state() | requests | {"now": time.monotonic()}


def time_of_an_answer(connection: socket.socket) -> float:
    """Of a request on a connection that does nothing else, in seconds."""
    begun, missing = time.monotonic(), REQUEST_BYTES
    connection.sendall(CHUNK[:REQUEST_BYTES])
    while missing:
        received = len(connection.recv(missing))
        if not received:
            raise ConnectionResetError("closed")
        missing -= received
    return time.monotonic() - begun


def answer_requests(address: str, family: int, prepare: Ready) -> None:
    """In a process of its own: the bulk has nothing to do with how fast it answers."""
    listener = socket.create_server((address, REQUEST_PORT), family=family)
    if os.fork():
        listener.close()
        return
    for number in 0, 1:  # whoever reads the parent's end is not to wait for this one
        os.close(number)
    for _ in range(2):  # while nothing else happens; while it is measured
        one, _ = listener.accept()
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        prepare(one)
        with suppress(OSError):
            while request := one.recv(1 << 16):
                one.sendall(request)
    os._exit(0)


def main() -> None:
    """One end, until its stdin closes."""
    settings = json.loads(sys.argv[-1])
    if settings["cgroup"]:
        Path(settings["cgroup"], "cgroup.procs").write_text("0", encoding="ascii")
    program = Program(settings)
    program.open()
    program.run()


if __name__ == "__main__":
    main()
