"""The two ends of a benchmark's traffic, each a process: `python traffic.py '{"role": …}'`.

    limited   joins its cgroup, connects, then sends or receives: the process that is throttled
    peer      listens, then receives or sends

Every line on stdin ("mark") is answered by one line of JSON about each flow as this end sees it.
"""

import contextlib
import json
import os
import select
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

PORT = 5001
CHUNK = memoryview(bytes(1 << 18))
ROOM = bytearray(1 << 20)
TRICKLE_BYTES, TRICKLE_S = 200, 0.1

# struct tcp_info, include/uapi/linux/tcp.h
TOTAL_RETRANS, BYTES_ACKED, BYTES_RECEIVED = (100, "I"), (120, "Q"), (128, "Q")


class Traffic:
    """The flows of one end."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.sockets: list[socket.socket] = []
        self.died: dict[int, str] = {}
        self.datagrams = 0
        self.family = socket.AF_INET6 if ":" in settings["address"] else socket.AF_INET

    def open(self) -> None:
        """Connect or accept all flows."""
        settings = self.settings
        if settings["protocol"] == "udp":
            self._open_udp()
        elif settings["role"] == "peer":
            listener = socket.create_server((settings["address"], PORT), family=self.family, backlog=1024)
            self._say("listening")
            for _ in range(settings["flows"]):
                self.sockets.append(self._prepared(listener.accept()[0]))
        else:
            for _ in range(settings["flows"]):
                self.sockets.append(self._prepared(socket.create_connection((settings["address"], PORT))))

    def _prepared(self, one: socket.socket) -> socket.socket:
        if self.settings["congestion"] and self.settings["sends"]:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, self.settings["congestion"].encode())
        # When the process is killed its connections end with it. Else they wait for minutes, in a namespace that is
        # gone, and count as TCP's memory: with that used up the kernel opens no window beyond 64 KiB.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        one.setblocking(False)
        return one

    def _open_udp(self) -> None:
        one = socket.socket(self.family, socket.SOCK_DGRAM)
        self.sockets.append(one)
        address = (self.settings["address"], PORT)
        if self.settings["role"] == "peer":
            one.bind(address)
            self._say("listening")
            greeting, other = one.recvfrom(16)
            assert greeting
            one.connect(other)
        else:
            one.connect(address)
            one.send(b"hello")

    def run(self) -> None:
        """Send or receive until killed."""
        if not self.settings["sends"]:
            self._receive()
        elif self.settings["protocol"] == "udp":
            self._send_datagrams()
        else:
            self._send()

    def _send(self) -> None:
        bulk, trickling = self.sockets, []
        if self.settings["trickle"]:
            bulk, trickling = self.sockets[:1], self.sockets[1:]
            threading.Thread(target=self._trickle, args=(trickling,), daemon=True).start()
        poll = select.epoll()
        for one in bulk:
            poll.register(one, select.EPOLLOUT)
        by_number = {one.fileno(): one for one in bulk}
        while True:
            for number, _ in poll.poll():
                try:
                    by_number[number].send(CHUNK)
                except BlockingIOError:
                    pass
                except OSError as error:
                    self.died[number] = error.strerror or str(error)
                    poll.unregister(number)

    def _trickle(self, sockets: list[socket.socket]) -> None:
        while True:
            for one in sockets:
                try:
                    one.send(CHUNK[:TRICKLE_BYTES])
                except BlockingIOError:
                    pass
                except OSError as error:
                    self.died[one.fileno()] = error.strerror or str(error)
            time.sleep(TRICKLE_S)

    def _send_datagrams(self) -> None:
        one, size, rate = self.sockets[0], self.settings["datagram"], self.settings["offered_per_s"]
        datagram, sent, started = CHUNK[:size], 0, time.monotonic()
        while True:
            due = int((time.monotonic() - started) * rate)
            if due - sent > rate / 10:  # was held up: no catching up
                sent = due
            while sent < due:
                try:
                    one.send(datagram)
                except OSError as error:
                    self.died[one.fileno()] = error.strerror or str(error)
                sent += 1
                self.datagrams = sent
            time.sleep(0.001)

    def _receive(self) -> None:
        poll = select.epoll()
        for one in self.sockets:
            poll.register(one, select.EPOLLIN)
        by_number = {one.fileno(): one for one in self.sockets}
        while True:
            for number, _ in poll.poll():
                try:
                    if not by_number[number].recv_into(ROOM):
                        poll.unregister(number)
                        self.died[number] = "closed"
                except BlockingIOError:
                    pass
                except OSError as error:
                    self.died[number] = error.strerror or str(error)
                    poll.unregister(number)

    def state(self) -> dict[str, Any]:
        """How each flow is doing."""
        flows = []
        for one in self.sockets if self.settings["protocol"] == "tcp" else ():
            info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            acked, received, retransmitted = (
                struct.unpack_from("=" + kind, info, at)[0] for at, kind in (BYTES_ACKED, BYTES_RECEIVED, TOTAL_RETRANS)
            )
            flows.append({"acked": acked, "received": received, "retransmitted": retransmitted})
        return {"flows": flows, "died": list(self.died.values()), "datagrams": self.datagrams}

    def answer(self) -> None:
        """Say how each flow is doing, for each line on stdin."""
        for _ in sys.stdin:
            self._say(json.dumps(self.state()))
        os._exit(0)  # whoever asked is gone

    @staticmethod
    def _say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def main() -> None:
    """One end, until its stdin closes."""
    settings = json.loads(sys.argv[1])
    if settings["cgroup"]:
        Path(settings["cgroup"], "cgroup.procs").write_text("0", encoding="ascii")
    traffic = Traffic(settings)
    traffic.open()
    threading.Thread(target=traffic.answer, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        traffic.run()


if __name__ == "__main__":
    main()
