"""A limit of our own, from end to end, where nobody else is: asked against achieved.

    a thread in a mount namespace of its own, with a bpffs of its own: pins go with it, kill -9 included
    near ══ veth0 ══ far     two children in private network namespaces (enforce/private_network.py)
    near in a leaf cgroup of our own, where the hooks sit; limited as any program is

No packet leaves the machine, and no device but those of the private namespaces is touched.
"""

import ctypes
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from chadthrottle import cgroup
from chadthrottle.enforce import guests
from chadthrottle.enforce.hooks import Hooks
from chadthrottle.enforce.membership import members
from chadthrottle.enforce.private_network import Inhabitant, die_with, private_network
from chadthrottle.enforce.rules import all_rules
from chadthrottle.errors import ChadthrottleError, KernelCannotError
from chadthrottle.limits import release, throttle
from chadthrottle.limits.meters import Sample, compare, hooks_in_place, read_meters
from chadthrottle.limits.transfer_end import End
from chadthrottle.limits.verdict import MeasuredBy
from chadthrottle.model import AttachPoint, Direction, Engine, ProcessIdentity, RuleSpec
from chadthrottle.pins.mount import MOUNT_POINT, NAME, ensure_mounted
from chadthrottle.procs import Identity, read_stat

__all__ = ["ASKED_BYTES_PER_S", "LEAF_PREFIX", "LEAST", "MOST", "Flight", "fly"]

ASKED_BYTES_PER_S = 4_000_000
"""1 MB in a quarter of a second."""

LEAST, MOST = 0.8, 1.25
"""Of what was asked: so little time on a busy machine is no precise measurement; verify makes one."""

LEAF_PREFIX = "chadthrottle-doctor-"
"""Of a cgroup below the root: what a doctor that was killed leaves, the next one finds by it."""

_NEAR, _FAR = "198.51.100.1", "198.51.100.2"  # TEST-NET-2, RFC 5737: nobody else is in these namespaces
_WARM_UP_S = 0.15
_SECONDS = (0.25, 0.5, 1.0)
"""The longer ones if the one before was not as it should be: others may be at work on this machine."""
_FLOWS, _MSS = 2, 1460
_UPLOADS, _DOWNLOADS = [0], [1]
"""One each: several find their shares of an upload in the first second only."""
_UNSEEN = 2
_NS_PER_S = 1_000_000_000

# include/uapi/linux/mount.h, sched.h
_MS_REC, _MS_PRIVATE = 0x4000, 0x4_0000
_CLONE_NEWNS = 0x0002_0000


@dataclass
class Flight:
    """What the canary met."""

    failed: ChadthrottleError | OSError | None = None
    """It could not be limited, or not be tried."""
    at: str = ""
    """What was being done then."""
    attached_by: str = ""
    notes: tuple[str, ...] = ()
    """What kept downloads from being queued."""
    engine: dict[Direction, Engine] = field(default_factory=dict)
    follows_children: bool | None = None
    achieved: dict[Direction, int] = field(default_factory=dict)
    """bytes/s on the wire."""
    unmeasured: dict[Direction, str] = field(default_factory=dict)
    """Why there is no such number."""

    def ratio(self, direction: Direction) -> float:
        """Of what was asked; 0 if it was not measured."""
        return self.achieved.get(direction, 0) / ASKED_BYTES_PER_S


class _Bird(End):
    """An end of a transfer that sends and receives at once, and has children."""

    def __init__(self) -> None:
        super().__init__()
        _close_internet_sockets()

    def exchange(self, from_here: list[int], warm_up_s: float, seconds: float) -> int:
        """Send as much as goes on the connections with these numbers, receive on the others; what arrives within
        `seconds`, after those to warm up, in bytes/s of payload.

        An ACK that travels with data would wait with it.
        """
        began_ns = time.monotonic_ns() + int(warm_up_s * _NS_PER_S)
        until_ns = began_ns + int(seconds * _NS_PER_S)
        received = 0
        with selectors.DefaultSelector() as selector:
            for number, each in enumerate(self._connections):
                each.setblocking(False)
                event = selectors.EVENT_WRITE if number in from_here else selectors.EVENT_READ
                selector.register(each, event, each)
            while (left_ns := until_ns - time.monotonic_ns()) > 0:
                for key, events in selector.select(left_ns / _NS_PER_S):
                    with suppress(BlockingIOError):
                        if events & selectors.EVENT_WRITE:
                            key.data.send(self._block)
                        else:
                            arrived = key.data.recv_into(self._room)
                            received += arrived if time.monotonic_ns() >= began_ns else 0
        return int(received / seconds)

    def have_child(self) -> int:
        """It waits to be killed, and is with its parent: it has all that doctor has open."""
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                die_with(parent)
                threading.Event().wait(5)
            os._exit(0)
        return child

    def lose_child(self, child: int) -> None:
        os.kill(child, 9)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


def fly() -> Flight:
    """All of it; some tenths of a second if nobody disturbs it."""
    flight = Flight()

    def go() -> None:
        try:
            _go(flight)
        except (ChadthrottleError, OSError) as error:
            flight.failed = error

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    return flight


def _go(flight: Flight) -> None:
    flight.at = "making a mount namespace with a bpffs of its own"
    base = _own_bpffs() / NAME
    flight.at = "making a cgroup for it"
    with _leaf() as leaf:
        flight.at = "making two network namespaces and a veth between them"
        with private_network(_Bird, (f"{_NEAR}/24",), (f"{_FAR}/24",)) as (near, far):
            identity = _identity(near)
            flight.at = "moving a process to that cgroup"
            guests.move_below(leaf, identity, identity)
            try:
                flight.at = "limiting that process"
                _limit(flight, identity, leaf, base)
                flight.follows_children = _follows(near, identity, base)
                flight.at = "measuring it"
                for seconds in _SECONDS:
                    _measure(flight, near, far, base, seconds)
                    if all(LEAST <= flight.ratio(direction) <= MOST for direction in Direction):
                        break
            finally:
                release(None, base=base)


def _limit(flight: Flight, identity: Identity, leaf: Path, base: Path) -> None:
    spec = RuleSpec(
        process=ProcessIdentity(identity.pid, identity.start_ticks, "canary"),
        rate_up_bytes_per_s=ASKED_BYTES_PER_S,
        rate_down_bytes_per_s=ASKED_BYTES_PER_S,
        at=AttachPoint(str(leaf)),
    )
    done = throttle(spec, base)
    flight.attached_by, flight.notes = done.state.attached_by, done.notes
    for direction in Direction:
        state = done.state.direction(direction)
        if state is not None:
            flight.engine[direction] = state.engine


def _follows(near: Inhabitant, identity: Identity, base: Path) -> bool:
    """By the hooks of fork and exit."""
    child = int(near.ask("have_child"))
    born = child in _members(base, identity)
    near.ask("lose_child", child)
    return born and child not in _members(base, identity)


def _members(base: Path, identity: Identity) -> set[int]:
    def look(hooks: Hooks) -> set[int]:
        rule = next((each for each in all_rules(hooks) if each.leader == identity), None)
        return set() if rule is None else {each.pid for each in members(hooks, rule.id)}

    with hooks_in_place(base) as hooks:
        return set() if hooks is None else look(hooks)


def _measure(flight: Flight, near: Inhabitant, far: Inhabitant, base: Path, seconds: float) -> None:
    """Both directions at once."""
    try:
        port = far.ask("listen", _FAR, _MSS)
        if not near.ask("connect", _FAR, port, _MSS, _FLOWS) or not far.ask("accept", _FLOWS):
            flight.unmeasured = dict.fromkeys(Direction, "no connection could be made between the two namespaces")
            return
        near.order("exchange", _UPLOADS, _WARM_UP_S, seconds)
        far.order("exchange", _DOWNLOADS, _WARM_UP_S, seconds)
        time.sleep(_WARM_UP_S)
        first = read_meters(base)
        time.sleep(seconds)
        second = read_meters(base)
        arrived = {Direction.DOWN: int(near.answer()), Direction.UP: int(far.answer())}
    finally:
        for each in near, far:
            each.order("hang_up")
    for each in near, far:
        each.answer()
    for direction in Direction:
        _compare(flight, direction, first, second, arrived[direction])


def _compare(
    flight: Flight, direction: Direction, first: Mapping[int, Sample], second: Mapping[int, Sample], arrived: int
) -> None:
    pairs = ((before, second.get(key)) for key, before in first.items())
    measured = next(
        (compare(before, after, direction, MeasuredBy.OWN_TRANSFER) for before, after in pairs if after), None
    )
    if measured is None:
        flight.unmeasured[direction] = "the limit ended while it was measured"
        return
    seen = measured.achieved_bytes_per_s
    # Much more at the far end than the limit has counted cannot have come through it.
    flight.achieved[direction] = arrived if arrived > _UNSEEN * seen else seen


@contextmanager
def _leaf() -> Iterator[Path]:
    path = cgroup.root() / f"{LEAF_PREFIX}{os.getpid()}-canary"
    try:
        path.mkdir()
    except OSError as error:
        raise KernelCannotError(f"cannot make the cgroup {path}: {error.strerror}") from error
    try:
        yield path
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    """EBUSY for a moment, until the killed are gone from it."""
    deadline = time.monotonic() + 2
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)
        else:
            return


def _own_bpffs() -> Path:
    """For this thread alone, and those that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(lambda: libc.unshare(_CLONE_NEWNS), "unshare of the mount namespace")
    private = ctypes.c_ulong(_MS_REC | _MS_PRIVATE)
    _checked(lambda: libc.mount(None, b"/", None, private, None), "mount --make-rprivate /")
    flags = ctypes.c_ulong(0)
    _checked(
        lambda: libc.mount(b"bpf", os.fsencode(MOUNT_POINT), b"bpf", flags, b"mode=0700"),
        f"mount of a bpffs on {MOUNT_POINT}",
    )
    ensure_mounted(MOUNT_POINT)
    return MOUNT_POINT


def _checked(call: Callable[[], int], what: str) -> None:
    if call() != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _close_internet_sockets() -> None:
    """What a child inherits from whoever called doctor has its place in the machine's own network namespace."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(name))) as made:
            if made.family in (socket.AF_INET, socket.AF_INET6):
                os.close(int(name))


def _identity(inhabitant: Inhabitant) -> Identity:
    stat = read_stat(inhabitant.pid)
    if stat is None:
        raise ChadthrottleError(f"process {inhabitant.pid}, which doctor made, was killed")
    return stat.identity
