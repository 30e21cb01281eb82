"""Endless transfers between the two ends of a veth, by processes of their own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.network import Endpoint

__all__ = ["endless_download", "endless_upload", "endless_upload_udp"]

# Each says "ready" when its socket is made; the client then waits for a line.
SINK = (
    "import socket, sys; s = socket.create_server((sys.argv[1], 5001)); print('ready', flush=True); c, _ = s.accept()\n"
    "while c.recv(1 << 18): pass"
)
SOURCE = (
    "import socket, sys; s = socket.create_server((sys.argv[1], 5001)); print('ready', flush=True); c, _ = s.accept()\n"
    "while True: c.sendall(bytes(1 << 16))"
)
SINK_UDP = (
    "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); s.bind((sys.argv[1], 5001))\n"
    "print('ready', flush=True)\n"
    "while True: s.recv(65536)"
)
ENTER = "import socket, sys, time; open(sys.argv[2] + '/cgroup.procs', 'w').write('0')\n"
CONNECT = ENTER + "c = socket.create_connection((sys.argv[1], 5001)); print('ready', flush=True)\n"
SEND = CONNECT + "while True: c.sendall(bytes(1 << 16))"
RECEIVE = CONNECT + "while c.recv(1 << 18): pass"
SEND_UDP = (
    ENTER + "c = socket.socket(type=socket.SOCK_DGRAM); c.connect((sys.argv[1], 5001)); print('ready', flush=True)\n"
    "while True:\n"
    "    for _ in range(10): c.send(bytes(1400))\n"
    "    time.sleep(0.002)"
)


@contextmanager
def endless_upload(pair: tuple[Endpoint, Endpoint], cgroup: Path) -> Iterator[int]:
    """A client in `cgroup` that sends by TCP as fast as it can; its PID."""
    with _transfer(pair, cgroup, SINK, SEND) as pid:
        yield pid


@contextmanager
def endless_download(pair: tuple[Endpoint, Endpoint], cgroup: Path) -> Iterator[int]:
    """A client in `cgroup` that is sent to by TCP as fast as possible; its PID."""
    with _transfer(pair, cgroup, SOURCE, RECEIVE) as pid:
        yield pid


@contextmanager
def endless_upload_udp(pair: tuple[Endpoint, Endpoint], cgroup: Path) -> Iterator[int]:
    """A client in `cgroup` that sends some 50 Mbit/s by UDP; its PID."""
    with _transfer(pair, cgroup, SINK_UDP, SEND_UDP) as pid:
        yield pid


@contextmanager
def _transfer(pair: tuple[Endpoint, Endpoint], cgroup: Path, server: str, client: str) -> Iterator[int]:
    here, there = pair
    with ExitStack() as stack:
        stack.enter_context(_script(there, server, there.ipv4))
        yield stack.enter_context(_script(here, client, there.ipv4, str(cgroup))).pid


@contextmanager
def _script(endpoint: Endpoint, script: str, *words: str) -> Iterator["subprocess.Popen[str]"]:
    command = endpoint.command(sys.executable, "-c", script, *words)
    # A server whose client was killed, or the reverse, says so: that is no news.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()
