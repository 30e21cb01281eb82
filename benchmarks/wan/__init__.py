"""A WAN: two namespaces, a tun device in each, and a relay between them that delays every packet (relay.c).

For kernels without netem; a private network like tests/support/network.py's veth_pair(), with a round trip time.
"""

import itertools
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.wan.build import relay_program
from benchmarks.wan.tun import open_tun
from tests.support.network import PREFIX, Endpoint, entered_namespace

__all__ = ["Carried", "Wan", "wan"]

NS_PER_S = 1_000_000_000
DEVICE = "wan0"
DEVICE_QUEUE_PACKETS = 10_000
"""What waits for the relay to read it; a tun device has 500 of its own, less than it may miss on a busy machine."""
TCP_BUFFER_BYTES = 64 << 20
"""Of a socket, each way: what is measured is the limit, not the window an unlimited sender would have liked."""
ENDING_S = 10.0

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Carried:
    """What the relay did with one direction's packets, a GSO buffer being as many as it is cut into."""

    packets: int
    wire_bytes: int
    """From the IP headers on."""
    dropped: int
    """By the bottleneck's queue, or because the relay did not keep up."""
    late_mean_s: float
    """Past the time at which each was due."""
    late_max_s: float


class Wan:
    """Both ends, and the relay."""

    def __init__(self, near: Endpoint, far: Endpoint, relay: "subprocess.Popen[str]") -> None:
        self.near = near
        self.far = far
        self._relay = relay
        self._carried: tuple[Carried, Carried] | None = None

    @property
    def pid(self) -> int:
        """Of the relay."""
        return self._relay.pid

    def end(self) -> tuple[Carried, Carried]:
        """Stop the relay, and with it all traffic; what it did from near to far and from far to near.

        Raises RuntimeError when it had ended by itself (what was measured meanwhile is worth nothing), TimeoutExpired
        when it does not end.
        """
        if self._carried is None:
            overrun = [_overrun(end) for end in (self.near, self.far)]
            answer, _ = self._relay.communicate(timeout=ENDING_S)
            if self._relay.returncode != 0:
                raise RuntimeError(f"the relay of the WAN ended early, with code {self._relay.returncode}")
            up, down = map(_carried, answer.splitlines(), overrun)
            self._carried = up, down
        return self._carried


@contextmanager
def wan(delay_s: float, rate_bytes_per_s: int = 0, queue_bytes: int = 0, *, offload: bool = True) -> Iterator[Wan]:
    """A WAN that delays by so much each way; a round trip takes twice that.

    With a rate, IP bytes per second and direction, it has a bottleneck, whose queue drops what it has no room for.
    Without offload packets cross one by one, as they would on a wire, and at a third of the speed.
    """
    number = next(_numbers)
    names = [f"{PREFIX}{os.getpid()}-wan{number}{side}" for side in "ab"]
    with ExitStack() as stack:
        for name in names:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
        with ExitStack() as until_inherited:
            fds = [open_tun(name, DEVICE, offload=offload) for name in names]
            for fd in fds:
                until_inherited.callback(os.close, fd)
            # Before the relay starts: what it would write to a device that is not up is lost.
            near, far = _configure(names[0], 1), _configure(names[1], 2)
            bottleneck = [str(rate_bytes_per_s), str(queue_bytes)] if rate_bytes_per_s else []
            relay = _start([*map(str, fds), str(round(delay_s * NS_PER_S)), *bottleneck], fds)
        stack.callback(_stop, relay)
        yield Wan(near, far, relay)


def _start(words: Sequence[str], fds: Sequence[int]) -> "subprocess.Popen[str]":
    command = [str(relay_program()), *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=fds)


def _stop(relay: "subprocess.Popen[str]") -> None:
    relay.kill()
    with relay:  # closes its pipes
        pass


def _configure(namespace: str, host: int) -> Endpoint:
    ipv4, ipv6 = f"10.213.8.{host}", f"fd00:c8::{host}"
    device = ("dev", DEVICE)
    _ip("-n", namespace, "address", "add", f"{ipv4}/24", *device)
    _ip("-n", namespace, "address", "add", f"{ipv6}/64", *device, "nodad")
    _ip("-n", namespace, "link", "set", "lo", "up")
    _ip("-n", namespace, "link", "set", *device, "txqueuelen", str(DEVICE_QUEUE_PACKETS), "up")
    with entered_namespace(namespace):
        for name in "tcp_rmem", "tcp_wmem":
            setting = Path("/proc/sys/net/ipv4", name)
            least, usual, _ = setting.read_text(encoding="ascii").split()
            setting.write_text(f"{least} {usual} {TCP_BUFFER_BYTES}", encoding="ascii")
        return Endpoint(namespace, DEVICE, socket.if_nametoindex(DEVICE), ipv4, ipv6)


def _overrun(endpoint: Endpoint) -> int:
    """Frames that found the device's queue full; 0 where the device went with a relay that died, as its status says."""
    with endpoint.entered():
        lines = Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines()
    found = [line.partition(":")[2].split() for line in lines if line.lstrip().startswith(f"{DEVICE}:")]
    return sum(int(fields[11]) for fields in found)


def _carried(line: str, overrun: int) -> Carried:
    packets, wire_bytes, dropped, late_mean_ns, late_max_ns = map(int, line.split())
    return Carried(packets, wire_bytes, dropped + overrun, late_mean_ns / NS_PER_S, late_max_ns / NS_PER_S)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
