"""The two processes of the demo, and the veth between them."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Self

from chadthrottle.errors import NotPermittedError
from tools.demo.errors import DemoError, checked

__all__ = ["CLIENT_ADDRESS", "PATIENCE_SECONDS", "SERVER_ADDRESS", "SIGNALS", "Channel", "Peer", "connect"]

CLIENT_ADDRESS, SERVER_ADDRESS = "10.213.8.1", "10.213.8.2"
# A demo that takes longer hangs.
PATIENCE_SECONDS = 30.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# include/uapi/linux/sched.h, include/uapi/linux/prctl.h
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1


class Peer:
    """A process in a new network namespace, which dies with this one. A context manager that ends it.

    `act` runs there, and speaks with us over the channel it is given. With a cgroup, the process enters
    that first: a socket keeps the cgroup in which it was created.
    """

    def __init__(self, name: str, act: Callable[["Channel"], None], cgroup: Path | None = None) -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            here.close()
            _live(name, Channel(there), act, cgroup, parent)
        there.close()
        self._channel = Channel(here)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._channel.close()

    def tell(self, message: dict[str, Any]) -> None:
        try:
            self._channel.send(message)
        except OSError as error:
            raise DemoError("a process of the demo has died") from error

    def hear(self) -> dict[str, Any]:
        """Its next message. Raises DemoError, also for what went wrong over there."""
        message = self._channel.receive()
        if message.get("denied"):
            hint = "In a container? The demo needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF."
            raise NotPermittedError(f"process {self.pid}: {message['error']}", hint=hint)
        if "error" in message:
            raise DemoError(f"process {self.pid}: {message['error']}")
        return message


class Channel:
    """Messages between a process and its child: JSON objects, one a packet."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: dict[str, Any]) -> None:
        self._end.send(json.dumps(message).encode())

    def receive(self, patience: float | None = PATIENCE_SECONDS) -> dict[str, Any]:
        self._end.settimeout(patience)
        try:
            packet = self._end.recv(1 << 16)
        except TimeoutError as error:
            raise DemoError(f"nothing heard for {PATIENCE_SECONDS:.0f} seconds") from error
        except ConnectionResetError:
            packet = b""
        if not packet:
            raise DemoError("a process of the demo has died")
        message: dict[str, Any] = json.loads(packet)
        return message

    def close(self) -> None:
        self._end.close()


def _live(name: str, channel: Channel, act: Callable[[Channel], None], cgroup: Path | None, parent: int) -> NoReturn:
    """The whole life of a forked process: it never returns into what it was forked from."""
    try:
        for number in SIGNALS:  # Ctrl-C reaches us too, but our parent ends us when it is time
            signal.signal(number, signal.SIG_IGN)
        libc = ctypes.CDLL(None, use_errno=True)
        checked("prctl", libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        if os.getppid() != parent:
            os._exit(1)  # it died before the line above
        Path("/proc/self/comm").write_text(name, encoding="ascii")
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text("0", encoding="ascii")
        checked("unshare", libc.unshare(CLONE_NEWNET))
        channel.send({"namespace": "made"})
        act(channel)
        signal.pause()
    except BaseException as error:  # noqa: BLE001 # whatever it is, our parent tells the user
        with contextlib.suppress(OSError):
            channel.send({"error": f"{type(error).__name__}: {error}", "denied": isinstance(error, PermissionError)})
    finally:
        os._exit(1)


def connect(client: Peer, server: Peer) -> None:
    """A veth between the namespaces of two processes. Neither end is ever in this machine's own."""
    for peer in client, server:
        peer.hear()  # it is in its namespace
    _ip(["ip"], [f"link add veth0 netns {client.pid} type veth peer name veth0 netns {server.pid}"])
    for peer, address in (client, CLIENT_ADDRESS), (server, SERVER_ADDRESS):
        # Not `ip netns exec` or `ip -n`: the namespaces have no names, so that they end with their processes.
        inside = ["nsenter", f"--net=/proc/{peer.pid}/ns/net", "ip"]
        _ip(inside, [f"address add {address}/24 dev veth0", "link set veth0 up"])
    for peer in server, client:  # the client connects to what listens
        peer.tell({"network": "up"})
        peer.hear()


def _ip(program: list[str], commands: list[str]) -> None:
    """Run commands of the program ip. Raises DemoError."""
    command = [*program, "-batch", "-"]
    result = subprocess.run(command, input="\n".join(commands), capture_output=True, text=True, check=False)
    if result.returncode:
        raise DemoError(f"`{'; '.join(commands)}` failed:\n{result.stderr.strip()}")
