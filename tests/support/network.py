"""Private network namespaces: the only devices tests attach to are in them."""

import ctypes
import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PREFIX = "ct-test-"
NAMESPACES = Path("/run/netns")

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h

_numbers = itertools.count()

_MAC = "02:00:00:00:c7:{:02x}"
"""By the host's number."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of the veth pair, alone in its namespace."""

    namespace: str
    device: str
    ifindex: int
    ipv4: str
    ipv6: str

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be in the namespace: this thread, its sockets and the children it forks; mounts stay as they are."""
        with entered_namespace(self.namespace):
            yield

    def command(self, *words: str) -> list[str]:
        """Words to run in the namespace. Not `ip netns exec`, which hides bpffs and cgroup2."""
        return ["nsenter", f"--net={NAMESPACES / self.namespace}", "--", *words]


@contextmanager
def entered_namespace(name: str) -> Iterator[None]:
    """Be in a named network namespace."""
    with Path("/proc/thread-self/ns/net").open("rb") as home, (NAMESPACES / name).open("rb") as away:
        _setns(away.fileno())
        try:
            yield
        finally:
            _setns(home.fileno())


@contextmanager
def lonely_namespace() -> Iterator[str]:
    """The name of a namespace with nothing but loopback."""
    name = f"{PREFIX}{os.getpid()}-own"
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        _ip("netns", "del", name)


@contextmanager
def veth_pair() -> Iterator[tuple[Endpoint, Endpoint]]:
    """Two namespaces, a veth between them, both families configured and usable at once."""
    number = next(_numbers)
    names = [f"{PREFIX}{os.getpid()}-{number}{side}" for side in "ab"]
    with ExitStack() as stack:
        for name in names:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
        # Born inside: the machine's own namespace never sees the devices.
        ours, theirs = ("address", _MAC.format(1)), ("address", _MAC.format(2))
        peer = ("peer", "name", "veth0", *theirs, "netns", names[1])
        _ip("-n", names[0], "link", "add", "veth0", *ours, "type", "veth", *peer)
        yield _configure(names[0], 1, 2), _configure(names[1], 2, 1)


def leftover_network() -> set[str]:
    """Test namespaces, of whichever process, and the devices of this one."""
    namespaces = {f"namespace {path.name}" for path in NAMESPACES.glob(f"{PREFIX}*")}
    # A file there, bonding_masters, comes with a module, and stays.
    devices = {path.name for path in Path("/sys/class/net").iterdir() if path.is_dir()}
    return namespaces | {f"device {name}" for name in devices}


def _configure(namespace: str, host: int, other: int) -> Endpoint:
    ipv4, ipv6 = f"10.213.7.{host}", f"fd00:c7::{host}"
    _ip_batch(
        namespace,
        f"address add {ipv4}/24 dev veth0",
        # nodad: usable now, not when duplicate address detection is through.
        f"address add {ipv6}/64 dev veth0 nodad",
        "link set lo up",
        "link set veth0 up",
        # By itself it would find the other one a second after the device came up.
        f"neigh replace fd00:c7::{other} lladdr {_MAC.format(other)} dev veth0 nud permanent",
    )
    with entered_namespace(namespace):
        return Endpoint(namespace, "veth0", _ifindex("veth0"), ipv4, ipv6)


def _ifindex(device: str) -> int:
    return socket.if_nametoindex(device)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _ip_batch(namespace: str, *lines: str) -> None:
    subprocess.run(["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _setns(fd: int) -> None:
    # os.setns() came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
