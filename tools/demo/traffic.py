"""What the two processes do: an upload and a download without end, one TCP connection each.

Each end counts the payload that arrives, and says how much when it is asked.
"""

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tools.demo.peers import PATIENCE_SECONDS, SERVER_ADDRESS, Channel, Peer

__all__ = ["Arrived", "arrived", "consume", "serve"]

PORT = 5001
BLOCK = bytes(1 << 16)


@dataclass(frozen=True, slots=True)
class Arrived:
    """Payload bytes that had arrived at a time."""

    bytes: int
    ns: int

    def rate_since(self, earlier: "Arrived") -> int:
        """In bytes per second."""
        return (self.bytes - earlier.bytes) * 1_000_000_000 // (self.ns - earlier.ns)


def arrived(peer: Peer) -> Arrived:
    """How much has arrived at that end."""
    peer.tell({"how": "much"})
    return Arrived(**peer.hear())


def consume(channel: Channel) -> None:
    """The client: sends on one connection, receives on the other."""
    channel.receive()
    connections = [socket.create_connection((SERVER_ADDRESS, PORT), PATIENCE_SECONDS) for _ in range(2)]
    channel.send({"client": "connected"})
    _exchange(channel, sending=connections[0], receiving=connections[1])


def serve(channel: Channel) -> None:
    """The server: the other end of both."""
    channel.receive()
    with socket.create_server((SERVER_ADDRESS, PORT)) as listener:
        listener.settimeout(PATIENCE_SECONDS)
        channel.send({"server": "listens"})
        connections = [listener.accept()[0] for _ in range(2)]
    _exchange(channel, sending=connections[1], receiving=connections[0])


def _exchange(channel: Channel, sending: socket.socket, receiving: socket.socket) -> None:
    """Send and receive in threads that end with the process; answer until then."""
    count = [0]
    for connection in sending, receiving:
        connection.settimeout(None)
    for action, arguments in (_send, (sending,)), (_receive, (receiving, count)):
        threading.Thread(target=action, args=arguments, daemon=True).start()
    while True:
        channel.receive(patience=None)
        channel.send(_now(count))


def _now(count: list[int]) -> dict[str, Any]:
    return {"bytes": count[0], "ns": time.monotonic_ns()}


def _send(connection: socket.socket) -> None:
    with suppress(ConnectionError):  # the other process was ended first
        while True:
            connection.sendall(BLOCK)


def _receive(connection: socket.socket, count: list[int]) -> None:
    room = bytearray(1 << 18)
    with suppress(ConnectionError):
        while size := connection.recv_into(room):
            count[0] += size
