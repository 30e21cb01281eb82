"""One end of a transfer, in a process of its own."""

import selectors
import socket
import struct
import time
from contextlib import suppress

__all__ = ["End"]

_PATIENCE_S = 3.0
_NS_PER_S = 1_000_000_000
_HEADERS = 52
"""IPv4, TCP and its timestamps, in bytes: a limit counts them with each segment."""


class End:
    """Sends or receives over TCP connections, as fast as they may."""

    def __init__(self) -> None:
        self._listener: socket.socket | None = None
        self._connections: list[socket.socket] = []
        self._block = bytes(1 << 18)
        self._room = bytearray(1 << 20)

    def listen(self, address: str, mss: int) -> int:
        """Be ready for connections; the port. `mss` bounds a segment's payload and timestamps, in bytes."""
        self._listener = listener = _made(mss)
        listener.bind((address, 0))
        listener.listen()
        return int(listener.getsockname()[1])

    def connect(self, address: str, port: int, mss: int, count: int) -> bool:
        """Whether there are so many connections now."""
        with suppress(TimeoutError):
            for _ in range(count):
                connection = _made(mss)
                self._connections.append(connection)
                connection.connect((address, port))
            return True
        return False

    def accept(self, count: int) -> bool:
        """Whether there are so many connections now."""
        assert self._listener is not None
        with suppress(TimeoutError):
            for _ in range(count):
                self._connections.append(self._listener.accept()[0])
            return True
        return False

    def send(self, seconds: float) -> None:
        """As much as goes."""
        until_ns = time.monotonic_ns() + int(seconds * _NS_PER_S)
        with self._ready_for(selectors.EVENT_WRITE) as selector:
            while (left_ns := until_ns - time.monotonic_ns()) > 0:
                for key, _ in selector.select(left_ns / _NS_PER_S):
                    with suppress(BlockingIOError):
                        key.data.send(self._block)

    def receive(self, warm_up_s: float, seconds: float) -> int:
        """What arrives within `seconds`, after those to warm up: bytes/s on the wire."""
        began_ns = time.monotonic_ns() + int(warm_up_s * _NS_PER_S)
        with self._ready_for(selectors.EVENT_READ) as selector:
            self._receive(selector, began_ns)
            payload = self._receive(selector, began_ns + int(seconds * _NS_PER_S))
        mss = self._connections[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        return int(payload * (mss + _HEADERS) / mss / seconds)

    def _receive(self, selector: selectors.BaseSelector, until_ns: int) -> int:
        received = 0
        while (left_ns := until_ns - time.monotonic_ns()) > 0:
            for key, _ in selector.select(left_ns / _NS_PER_S):
                with suppress(BlockingIOError):
                    received += key.data.recv_into(self._room)
        return received

    def _ready_for(self, event: int) -> selectors.BaseSelector:
        selector = selectors.DefaultSelector()
        for each in self._connections:
            each.setblocking(False)
            selector.register(each, event, each)
        return selector

    def hang_up(self) -> None:
        """At once: what is not sent yet is thrown away, and troubles nobody."""
        for each in (self._listener, *self._connections):
            if each is not None:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.close()
        self._listener = None
        self._connections.clear()


def _made(mss: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
    made.settimeout(_PATIENCE_S)
    return made
