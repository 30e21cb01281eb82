"""Shows on a transfer of its own what chadthrottle does: counts one program's bytes, with BPF.

    client, in a cgroup of its own ── veth ── server        each in a network namespace of its own
            │
    count_egress, count_ingress: attached to that cgroup by unpinned links

Nothing of this machine is touched but a new cgroup below the cgroup2 root. All the rest ends with this
process however that ends: the links, because nothing else holds them; client and server, because the
kernel kills them with their parent; their namespaces and the veth with them. A cgroup has no such
owner: what a killed run left, the next one removes.

One file, because it is run by its path: from there, the modules beside it are no package.
"""

import argparse
import contextlib
import ctypes
import errno
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

from chadthrottle.abi import TrafficCount, TrafficDirection
from chadthrottle.artifacts import check_fresh, flavour, object_path
from chadthrottle.bpf.cgroup_link import attach_cgroup
from chadthrottle.bpf.cgroupfs import cgroup2_mounts, open_cgroup
from chadthrottle.bpf.constants import AttachType
from chadthrottle.bpf.loader import LoadedObject, load
from chadthrottle.bpf.parse import open_object
from chadthrottle.bpf.query import query_cgroup
from chadthrottle.errors import ChadthrottleError, KernelCannotError, NotPermittedError

CGROUP_PREFIX = "chadthrottle-demo-"
HOOKS = {
    "count_egress": AttachType.BPF_CGROUP_INET_EGRESS,
    "count_ingress": AttachType.BPF_CGROUP_INET_INGRESS,
}

CLIENT_ADDRESS, SERVER_ADDRESS, PORT = "10.213.8.1", "10.213.8.2", 5001
MEGABYTE = 1_000_000
BLOCK = bytes(1 << 16)
# A demo that takes longer hangs.
PATIENCE_SECONDS = 30.0

# Headers are 52 of 1500 bytes on veth, acknowledgements of the other direction about as much.
OVERHEAD = 1.1
# Handshake, farewell and the like.
SLACK_BYTES = 64 * 1024

# include/uapi/linux/sched.h, include/uapi/linux/prctl.h
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoError(ChadthrottleError):
    """The demo could not be set up, or did not show what it should."""


class Stopped(BaseException):
    """A signal asks us to end; its number is the argument."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Payload bytes that a socket sent and received."""

    sent: int
    received: int


def main() -> int:
    """Run the demo. Returns the exit status."""
    megabytes = read_arguments()
    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        check_prerequisites()
        with ExitStack() as undo:
            try:
                demonstrate(undo, Moved(megabytes * MEGABYTE, 2 * megabytes * MEGABYTE))
            finally:
                ignore_signals()  # undoing is not interrupted
        say("Removed", "the cgroup, both processes and their namespaces")
    except Stopped as stopped:
        print("stopped; all is undone", file=sys.stderr)
        return 128 + int(stopped.args[0])
    except ChadthrottleError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def read_arguments() -> int:
    """How many megabytes to send up."""
    parser = argparse.ArgumentParser(description="Count the bytes of one program with BPF, on a transfer of its own.")
    parser.add_argument("--megabytes", type=int, default=4, help="how much to send up (4); down it is twice that")
    megabytes: int = parser.parse_args().megabytes
    if megabytes < 1:
        parser.error("--megabytes must be at least 1")
    return megabytes


def demonstrate(undo: ExitStack, wanted: Moved) -> None:
    """All that the demo does; `undo` takes it back."""
    print("chadthrottle demo: what one program sends and receives, counted by BPF\n", flush=True)
    root = cgroup2_root()
    remove_leftovers(root)
    cgroup = undo.enter_context(made_cgroup(root / f"{CGROUP_PREFIX}{os.getpid()}"))
    server = undo.enter_context(Peer(lambda channel: serve(channel, wanted)))
    client = undo.enter_context(Peer(lambda channel: transfer(channel, wanted), cgroup))
    connect(client, server)
    say("Cgroup", str(cgroup))
    say("Processes", f"client {client.pid} in that cgroup, server {server.pid} outside;")
    say("", f"{CLIENT_ADDRESS} <-> {SERVER_ADDRESS}, a veth between two network namespaces")

    with loaded_object() as loaded, attached(loaded, cgroup):
        at_client, at_server, seconds = run_transfer(client, server)
        counted = {direction: read_count(loaded, direction) for direction in TrafficDirection}
    say("Transfer", f"{at_client.sent:,} bytes up, {at_client.received:,} bytes down in {seconds:.2f} s\n")
    print_table(counted, at_client)

    wrong = differences(counted, at_client, at_server)
    if wrong:
        raise DemoError("what was counted cannot be right:\n  " + "\n  ".join(wrong))
    say("Checked", "payload <= IP bytes <= wire bytes, and little more than payload")
    check_detached(cgroup)
    say("Detached", "BPF_PROG_QUERY finds no program on the cgroup any more")


# Parts of the show


@contextmanager
def loaded_object() -> Iterator[LoadedObject]:
    """ebpf/traffic.bpf.c in the kernel."""
    check_fresh("traffic")
    path = object_path("traffic")
    started = time.perf_counter()
    spec = open_object(path)
    parsed = time.perf_counter()
    with load(spec) as loaded:
        took = f"read in {(parsed - started) * 1e3:.1f} ms, loaded in {(time.perf_counter() - parsed) * 1e3:.1f} ms"
        say("Object", f"{path.name} ({flavour()}), {took}")
        yield loaded


@contextmanager
def attached(loaded: LoadedObject, cgroup: Path) -> Iterator[None]:
    """Both programs at work in the cgroup, held by links that are not pinned."""
    with ExitStack() as links:
        for title, (name, hook) in zip(("Programs", ""), HOOKS.items(), strict=True):
            program = loaded.programs[name]
            link = links.enter_context(attach_cgroup(program, cgroup, hook, "link"))
            place = hook.name.removeprefix("BPF_").lower()
            say(title, f"{name:13}  tag {program.info().tag}  {place}, link {link.id}")
        yield


def run_transfer(client: "Peer", server: "Peer") -> tuple[Moved, Moved, float]:
    """What the client's socket moved, what the server's did, and the seconds it took."""
    started = time.perf_counter()
    client.tell({"server": "listens"})
    at_client, at_server = Moved(**client.hear()), Moved(**server.hear())
    return at_client, at_server, time.perf_counter() - started


def read_count(loaded: LoadedObject, direction: TrafficDirection) -> TrafficCount:
    """What the programs counted, on all CPUs together."""
    return TrafficCount.total(loaded.maps["traffic"].lookup_percpu(direction.key) or ())


def print_table(counted: dict[TrafficDirection, TrafficCount], payload: Moved) -> None:
    """What was counted beside what the program's socket moved."""
    columns = "{:15}{:>9}{:>13}{:>13}{:>13}{:>13}"
    print(columns.format("direction", "packets", "IP bytes", "wire bytes", "payload", "IP/payload"))
    names = {TrafficDirection.EGRESS: "up (egress)", TrafficDirection.INGRESS: "down (ingress)"}
    for direction, count in counted.items():
        moved = payload_of(payload, direction)
        figures = [f"{each:,}" for each in (count.packets, count.ip_bytes, count.wire_bytes, moved)]
        print(columns.format(names[direction], *figures, f"{count.ip_bytes / moved:.4f}"))
    print(flush=True)


def differences(counted: dict[TrafficDirection, TrafficCount], at_client: Moved, at_server: Moved) -> list[str]:
    """What of the figures contradicts the rest; empty if all is well."""
    wrong = []
    if (at_client.sent, at_client.received) != (at_server.received, at_server.sent):
        wrong.append(f"the client's socket moved {at_client}, the server's {at_server}")
    for direction, count in counted.items():
        name, payload = direction.name.lower(), payload_of(at_client, direction)
        most = int(payload * OVERHEAD) + SLACK_BYTES
        if count.ip_bytes < payload:
            wrong.append(f"{name}: {count.ip_bytes:,} IP bytes counted, fewer than {payload:,} of payload")
        if count.wire_bytes < count.ip_bytes:
            wrong.append(f"{name}: {count.wire_bytes:,} wire bytes, fewer than {count.ip_bytes:,} IP bytes")
        if count.wire_bytes > most:
            wrong.append(f"{name}: {count.wire_bytes:,} wire bytes counted for {payload:,} of payload")
        if count.errors:
            wrong.append(f"{name}: {count.errors:,} packets were not understood")
    return wrong


def payload_of(moved: Moved, direction: TrafficDirection) -> int:
    """Bytes in that direction, seen from the client."""
    return moved.sent if direction is TrafficDirection.EGRESS else moved.received


def check_detached(cgroup: Path) -> None:
    """Raise DemoError if a program is attached to the cgroup."""
    with open_cgroup(cgroup) as directory:
        for hook in HOOKS.values():
            left = query_cgroup(directory.fd, hook).programs
            if left:
                raise DemoError(f"still attached to {cgroup} as {hook.name}: {', '.join(map(str, left))}")


# The cgroup


def cgroup2_root() -> Path:
    """Where the cgroup2 hierarchy is mounted, wherever that is on this machine."""
    root = next((mount.mount_point for mount in cgroup2_mounts()), None)
    if root is None:
        raise KernelCannotError("no cgroup2 is mounted here.", hint="Try: mount -t cgroup2 none /mnt")
    return root


@contextmanager
def made_cgroup(path: Path) -> Iterator[Path]:
    """A new cgroup, to be empty when the block ends."""
    try:
        path.mkdir()
    except OSError as error:
        hint = "In a container, cgroup2 may be read-only: try outside."
        raise KernelCannotError(f"cannot make the cgroup {path}: {error.strerror}", hint=hint) from error
    try:
        yield path
    finally:
        remove_cgroup(path)


def remove_cgroup(path: Path) -> None:
    """Remove an empty cgroup. Raises DemoError."""
    deadline = time.monotonic() + 2
    while True:
        try:
            path.rmdir()
        except OSError as error:
            # A process that has just ended may still be in it.
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise DemoError(f"cannot remove the cgroup {path}: {error.strerror}") from error
            time.sleep(0.01)
        else:
            return


def remove_leftovers(root: Path) -> None:
    """Remove the cgroups of earlier runs that were killed: named like ours, after a process that is gone."""
    for path in sorted(root.glob(f"{CGROUP_PREFIX}*")):
        pid = path.name.removeprefix(CGROUP_PREFIX)
        if pid == str(os.getpid()) or (pid.isdecimal() and not Path(f"/proc/{pid}").exists()):
            remove_cgroup(path)
            say("Cleared", f"{path.name}, left by a run that was killed")


# The two processes and what is between them


class Peer:
    """A process in a new network namespace, which dies with this one. A context manager that ends it.

    `act` runs there, and speaks with us over the channel it is given. With a cgroup, the process enters
    that first: a socket keeps the cgroup in which it was created.
    """

    def __init__(self, act: Callable[["Channel"], None], cgroup: Path | None = None) -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            here.close()
            run_peer(Channel(there), act, cgroup, parent)
        there.close()
        self._channel = Channel(here)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._channel.close()

    def tell(self, message: dict[str, Any]) -> None:
        self._channel.send(message)

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
        end.settimeout(PATIENCE_SECONDS)

    def send(self, message: dict[str, Any]) -> None:
        self._end.send(json.dumps(message).encode())

    def receive(self) -> dict[str, Any]:
        try:
            packet = self._end.recv(1 << 16)
        except TimeoutError as error:
            raise DemoError(f"nothing heard for {PATIENCE_SECONDS:.0f} seconds") from error
        if not packet:
            raise DemoError("a process of the demo has died")
        message: dict[str, Any] = json.loads(packet)
        return message

    def close(self) -> None:
        self._end.close()


def run_peer(channel: Channel, act: Callable[[Channel], None], cgroup: Path | None, parent: int) -> NoReturn:
    """The whole life of a forked process: it never returns into what it was forked from."""
    try:
        ignore_signals()  # Ctrl-C reaches us too, but our parent ends us when it has counted
        libc = ctypes.CDLL(None, use_errno=True)
        checked("prctl", libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        if os.getppid() != parent:
            os._exit(1)  # it died before the line above
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


def checked(call: str, result: int) -> None:
    """Raise OSError if a C function returned a failure."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def connect(client: Peer, server: Peer) -> None:
    """A veth between the namespaces of two processes. Neither end is ever in this machine's own."""
    for peer in client, server:
        peer.hear()  # it is in its namespace
    veth = f"link add veth0 netns {client.pid} type veth peer name veth0 netns {server.pid}"
    ip(["ip"], [veth])
    for peer, address in (client, CLIENT_ADDRESS), (server, SERVER_ADDRESS):
        # Not `ip netns exec` or `ip -n`: the namespaces have no names, so that they end with their processes.
        inside = ["nsenter", f"--net=/proc/{peer.pid}/ns/net", "ip"]
        ip(inside, [f"address add {address}/24 dev veth0", "link set veth0 up"])
    server.tell({"network": "up"})
    server.hear()  # it listens


def ip(program: list[str], commands: list[str]) -> None:
    """Run commands of the program ip. Raises DemoError."""
    command = [*program, "-batch", "-"]
    result = subprocess.run(command, input="\n".join(commands), capture_output=True, text=True, check=False)
    if result.returncode:
        raise DemoError(f"`{'; '.join(commands)}` failed:\n{result.stderr.strip()}")


def transfer(channel: Channel, wanted: Moved) -> None:
    """The client: send, then receive until the server has no more. Reports what it moved."""
    channel.receive()
    with socket.create_connection((SERVER_ADDRESS, PORT), PATIENCE_SECONDS) as connection:
        send(connection, wanted.sent)
        connection.shutdown(socket.SHUT_WR)
        received = receive_all(connection)
    channel.send({"sent": wanted.sent, "received": received})


def serve(channel: Channel, wanted: Moved) -> None:
    """The server: receive until the client has no more, then send. Reports what it moved."""
    channel.receive()
    with socket.create_server((SERVER_ADDRESS, PORT)) as listener:
        listener.settimeout(PATIENCE_SECONDS)
        channel.send({"server": "listens"})
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(PATIENCE_SECONDS)
            received = receive_all(connection)
            send(connection, wanted.received)
    channel.send({"sent": wanted.received, "received": received})


def send(connection: socket.socket, size: int) -> None:
    """Send that many bytes."""
    for start in range(0, size, len(BLOCK)):
        connection.sendall(BLOCK[: size - start])


def receive_all(connection: socket.socket) -> int:
    """Read to the end; how many bytes there were."""
    room = bytearray(1 << 18)
    return sum(itertools.takewhile(bool, (connection.recv_into(room) for _ in itertools.count())))


# Around it


def check_prerequisites() -> None:
    """Raise what the user can do something about."""
    if os.geteuid() != 0:
        raise NotPermittedError(
            "the demo loads BPF programs and makes network namespaces: that takes root.",
            hint=f"Run: make demo (which asks sudo), or: sudo {sys.executable} tools/demo.py",
        )
    for program, package in ("ip", "iproute2"), ("nsenter", "util-linux"):
        if shutil.which(program) is None:
            hint = f"Install the package {package}: apt-get install {package}"
            raise DemoError(f"the program {program} is missing, or not in $PATH.", hint=hint)


def say(title: str, text: str) -> None:
    """A line of the account, at once: it says what has happened, also if the next step fails."""
    print(f"{title:10} {text}", flush=True)


def stop(number: int, _: FrameType | None) -> NoReturn:
    """Signal handler."""
    ignore_signals()
    raise Stopped(number)


def ignore_signals() -> None:
    """For the rest of this process's life."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
