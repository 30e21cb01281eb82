"""The queue of one network namespace: made, repaired, removed. Runs in a thread that is in the namespace.

What was begun is recorded first, so that a command that is killed leaves nothing that the next one does not find.
"""

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chadthrottle.abi import THROTTLE_QUEUE_MAJOR, ThrottleDirection
from chadthrottle.bpf.constants import AttachType
from chadthrottle.bpf.errors import NotSupportedError
from chadthrottle.bpf.links import Link
from chadthrottle.bpf.maps import Map
from chadthrottle.bpf.query import query_tcx
from chadthrottle.bpf.tcx_link import attach_tcx
from chadthrottle.enforce.queue import records, shape
from chadthrottle.enforce.queue.classes import set_leaves, set_rates
from chadthrottle.enforce.queue.records import Record
from chadthrottle.enforce.queue.shape import QueuedRate
from chadthrottle.errors import ChadthrottleError, KernelCannotError
from chadthrottle.netlink import CLSACT_EGRESS, CLSACT_INGRESS, Device, Links, TrafficControl

if TYPE_CHECKING:
    from chadthrottle.bpf.programs import Program

__all__ = ["DEVICE", "FILTER", "LENT", "PARENTS", "Place", "is_worth_it"]

DEVICE = "chadthrottle"
"""The IFB's name, and that of our filters."""

LENT = ("tags", "rules", "meters")
"""Maps of the hooks that the queue's programs share."""

# The last preference there is: whatever filters the user has see a packet before it leaves for the queue.
FILTER = (0xFFFF, THROTTLE_QUEUE_MAJOR)
PARENTS = {ThrottleDirection.UP: CLSACT_EGRESS, ThrottleDirection.DOWN: CLSACT_INGRESS}

# Their master's ingress sees the same packets.
_PORTS = ("bridge", "bond", "team", "openvswitch")

_LINK_HEADER_BYTES = 18
_LEAST_MTU_BYTES = 1500

# At this rate what waits in a class is gone in a moment, once it has paid for what it sent last: HTB keeps debts as
# time, which no new rate makes shorter, and a packet of 1514 bytes at 60 kbit/s is one of 200 ms.
_DRAIN_BYTES_PER_S = 12_500_000_000
_DRAIN_S = 0.002
_DRAIN_MOST_S = 0.2


class Place:
    """A context manager over two netlink sockets. All raise NotPermittedError, KernelCannotError, BpfError, OSError."""

    def __init__(self, queues: Map, links: Path) -> None:
        """`queues` is the map, `links` the directory where tcx links are pinned."""
        self.namespace = os.stat("/proc/thread-self/ns/net").st_ino  # noqa: PTH116 # as elsewhere
        self.skipped: list[str] = []
        """Devices that could not be attached to by the last `ensure`: "eth0: why"."""
        self._queues, self._pins = queues, links
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._links = stack.enter_context(Links())
            self._tc = stack.enter_context(TrafficControl())
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stack.close()

    def ensure(self, rates: Sequence[QueuedRate], lent: Mapping[str, Map], changed: Collection[int] = ()) -> None:
        """Make what is missing: the device, its HTB, classes for these rates, a program on each device that is up.

        `lent` are the maps LENT; classes of the rules numbered in `changed` are set anew. Classes of other rules go.
        Raises when the queue cannot be made, or no device can be attached to: the caller then removes it.
        """
        devices = self._links.devices()
        wanted = [each for each in devices if is_worth_it(each)]
        own = self._own_device(devices, max((each.mtu_bytes for each in wanted), default=0))
        self._set_classes(own, rates, changed)
        directions = {rate.direction for rate in rates}
        self._detach_the_rest(wanted, directions)
        self._attach(own, wanted, directions, lent)

    def remove(self) -> None:
        """Everything of ours leaves the namespace; what the user made since stays."""
        mine = next((each for each in self._links.devices() if _is_queue(each)), None)
        for record in self._records():
            if record.ifindex:
                self._detach(record)
        if mine is not None:
            waiting = self._tc.waiting_bytes(mine.ifindex)
            self._drain(mine.ifindex, waiting, waiting)
            self._links.remove(mine.ifindex)
        records.forget(self._queues, Record(self.namespace, 0))

    def uncovered(self) -> list[str]:
        """Names of devices that are up and have no program of ours: what arrives there is policed."""
        covered = {each.ifindex for each in self._records()}
        return [each.name for each in self._links.devices() if is_worth_it(each) and each.ifindex not in covered]

    def is_broken(self) -> bool:
        """Somebody removed our device, or set it down."""
        recorded = next((each.is_queue for each in self._records() if not each.ifindex), 0)
        return not any(_is_queue(each) and each.ifindex == recorded and each.is_up for each in self._links.devices())

    def drops(self) -> list[tuple[int, ThrottleDirection, int]]:
        """Packets for which there was no room, of each class: the rule's number, the direction, how many."""
        mine = next((each for each in self._links.devices() if _is_queue(each)), None)
        counts = {} if mine is None else self._tc.leaf_drops(mine.ifindex)
        return [(*shape.owner_of(each), dropped) for each, dropped in counts.items()]

    def _records(self) -> list[Record]:
        return [each for each in records.read(self._queues) if each.namespace == self.namespace]

    def _record(self, ifindex: int) -> Record:
        known = (each for each in self._records() if each.ifindex == ifindex)
        return next(known, Record(self.namespace, ifindex))

    def _own_device(self, devices: Iterable[Device], mtu_bytes: int) -> Record:
        found = next((each for each in devices if each.name == DEVICE), None)
        if found is not None and not _is_queue(found):
            raise KernelCannotError(
                f"a network device of another kind ({found.kind or 'hardware'}) is called {DEVICE} here",
                hint=f"Rename it: sudo ip link set {DEVICE} name …",
            )
        before = self._record(0)
        segment = max(before.segment, max(mtu_bytes, _LEAST_MTU_BYTES) + _LINK_HEADER_BYTES)
        if found is None:
            records.write(self._queues, before._replace(is_queue=before.is_queue or 1, segment=segment))
            index = self._links.add_ifb(DEVICE)
        else:
            index = found.ifindex
        if before.is_queue not in (0, index) or before.segment not in (0, segment):
            # It was removed by hand: the programs send to a device that is not there. Or they know a smaller segment.
            for record in self._records():
                if record.ifindex:
                    self._detach(record)
        after = before._replace(is_queue=index, segment=segment)
        records.write(self._queues, after)
        if found is None or not found.is_up:
            self._links.set_up(index)
        if not self._tc.has_htb(index, shape.ROOT):
            self._tc.make_htb(index, shape.ROOT)
        if segment != before.segment and before.segment:
            self._drop_classes(index, (), self._tc.waiting_bytes(index))  # made anew, for longer packets
        return after

    def _set_classes(self, own: Record, rates: Sequence[QueuedRate], changed: Collection[int]) -> None:
        wholes = shape.wholes(rates)
        there = self._tc.waiting_bytes(own.is_queue)
        self._drop_classes(own.is_queue, wholes, there)
        for whole, rate in wholes.items():
            if whole not in there:
                set_rates(self._tc, own.is_queue, rate, own.segment)
                set_leaves(self._tc, own.is_queue, rate, own.segment)
            elif rate.number in changed:
                # At a lower rate what waits already would take its time for seconds, and what comes meanwhile too.
                rooms = shape.bulk_leaves(rate, own.segment)
                full = [room.parent for room in rooms if there.get(room.parent, 0) > room.limit_bytes]
                self._drain(own.is_queue, full, there)
                set_leaves(self._tc, own.is_queue, rate, own.segment)
                set_rates(self._tc, own.is_queue, rate, own.segment)

    def _drop_classes(self, ifindex: int, wanted: Collection[int], there: Mapping[int, int]) -> None:
        """Those of other rules, and directions, than these wholes: after what waits in them has left."""
        gone = [each for each in there if shape.whole_of(each) not in wanted]
        self._drain(ifindex, gone, there)
        for each in sorted(gone, key=_depth, reverse=True):  # parts first: their parent is in use till then
            self._tc.remove_class(ifindex, each)

    def _drain(self, ifindex: int, handles: Iterable[int], there: Mapping[int, int]) -> None:
        """What waits in these classes leaves soon. Their rates are to be set again."""
        parts = [each for each in handles if there[each]]
        if not parts:
            return
        for each in sorted({each for part in parts for each in _line(part)}, key=_depth):
            self._set_free(ifindex, shape.parent_of(each), each)
        deadline = time.monotonic() + _DRAIN_MOST_S
        time.sleep(_DRAIN_S)
        while time.monotonic() < deadline:
            waiting = self._tc.waiting_bytes(ifindex)
            if not any(waiting.get(each) for each in parts):
                return
            time.sleep(_DRAIN_S)

    def _set_free(self, ifindex: int, parent: int, handle: int) -> None:
        self._tc.set_class(
            ifindex,
            parent,
            handle,
            rate_bytes_per_s=_DRAIN_BYTES_PER_S,
            ceil_bytes_per_s=_DRAIN_BYTES_PER_S,
            burst_bytes=_DRAIN_BYTES_PER_S // 1000,
        )

    def _detach_the_rest(self, wanted: Iterable[Device], directions: Collection[ThrottleDirection]) -> None:
        """Devices that are gone, or are not to have a program any more, in either direction."""
        present = {each.ifindex for each in wanted}
        for record in self._records():
            stale = record.by_filter & 1 << ThrottleDirection.UP and ThrottleDirection.UP not in directions
            if record.ifindex and (record.ifindex not in present or stale):
                self._detach(record)

    def _attach(
        self,
        own: Record,
        devices: Sequence[Device],
        directions: Collection[ThrottleDirection],
        lent: Mapping[str, Map],
    ) -> None:
        self.skipped = []
        failures: list[ChadthrottleError] = []
        programs = _Programs(own, lent)
        clsacts = self._tc.clsacts()
        with programs:
            for device in devices:
                try:
                    self._attach_to(own, device, clsacts.get(device.ifindex, ""), directions, programs)
                except ChadthrottleError as error:
                    failures.append(error)
                    self.skipped.append(f"{device.name}: {error.message}")
                    self._detach(self._record(device.ifindex))
        if failures and len(failures) == len(devices):
            raise failures[0]

    def _attach_to(
        self,
        own: Record,
        device: Device,
        clsact: str,
        directions: Collection[ThrottleDirection],
        programs: "_Programs",
    ) -> None:
        record = self._record(device.ifindex)
        filters = self._tc.filters(device.ifindex, CLSACT_INGRESS) if clsact else []
        others = any(each.name != DEVICE for each in filters)
        if ThrottleDirection.DOWN in directions:
            has_filter = record.by_filter & 1 << ThrottleDirection.DOWN and any(each.name == DEVICE for each in filters)
            has_link = record.by_link and not others and self._has_link(record)
            if record.by_link and not has_link:
                self._unlink(record)
                record = self._write(record._replace(by_link=0))
            if not has_filter and not has_link:
                record = self._attach_ingress(own, record, clsact, programs, by_link=not others)
                clsact = clsact or ("clsact" if record.own_clsact else "")
        if ThrottleDirection.UP in directions:
            self._attach_egress(own, record, clsact, programs)

    def _attach_ingress(
        self, own: Record, record: Record, clsact: str, programs: "_Programs", *, by_link: bool
    ) -> Record:
        program = programs["queue_download"]
        if by_link:
            try:
                return self._attach_link(record, program)
            except NotSupportedError:  # before Linux 6.6
                record = self._write(record._replace(by_link=0))
        redirect_to = own.is_queue if programs.by_action else 0
        return self._attach_filter(record, ThrottleDirection.DOWN, clsact, program, redirect_to)

    def _attach_link(self, record: Record, program: "Program") -> Record:
        record = self._write(record._replace(by_link=1))
        self._unlink(record)
        with attach_tcx(program, record.ifindex, AttachType.BPF_TCX_INGRESS) as link:
            link.pin(self._pins / record.pin_name)
        return record

    def _attach_egress(self, own: Record, record: Record, clsact: str, programs: "_Programs") -> None:
        if clsact and any(each.name == DEVICE for each in self._tc.filters(record.ifindex, CLSACT_EGRESS)):
            return
        self._attach_filter(record, ThrottleDirection.UP, clsact, programs["queue_upload"], own.is_queue)

    def _attach_filter(
        self, record: Record, direction: ThrottleDirection, clsact: str, program: "Program", redirect_to: int
    ) -> Record:
        record = self._write(
            record._replace(
                by_filter=record.by_filter | 1 << direction, own_clsact=record.own_clsact or int(not clsact)
            )
        )
        if not clsact:
            self._tc.add_clsact(record.ifindex)
        # A filter of ours that nothing tells of: somebody removed the pins by hand.
        self._tc.remove_filter(record.ifindex, PARENTS[direction], FILTER)
        self._tc.add_filter(
            record.ifindex,
            PARENTS[direction],
            FILTER,
            program_fd=program.fd,
            name=DEVICE,
            redirect_to=redirect_to,
        )
        return record

    def _write(self, record: Record) -> Record:
        records.write(self._queues, record)
        return record

    def _has_link(self, record: Record) -> bool:
        """The last on its hook, that is: programs after it would not see what is queued."""
        path = self._pins / record.pin_name
        if not path.exists():
            return False
        with Link.open_pinned(path) as link:
            info = link.info()
        if info.ifindex != record.ifindex:  # 0: detached by force
            return False
        return query_tcx(record.ifindex, AttachType.BPF_TCX_INGRESS).programs[-1].link_id == info.id

    def _unlink(self, record: Record) -> None:
        (self._pins / record.pin_name).unlink(missing_ok=True)

    def _detach(self, record: Record) -> None:
        for direction in ThrottleDirection:
            if record.by_filter & 1 << direction:
                self._tc.remove_filter(record.ifindex, PARENTS[direction], FILTER)
        self._unlink(record)
        if record.own_clsact and not any(self._tc.filters(record.ifindex, each) for each in PARENTS.values()):
            self._tc.remove_clsact(record.ifindex)
        records.forget(self._queues, record)


class _Programs:
    """queue.bpf.o for one queue, loaded when it is first asked for."""

    def __init__(self, own: Record, lent: Mapping[str, Map]) -> None:
        self._own, self._lent = own, lent
        self._stack = ExitStack()
        self._loaded: Mapping[str, Program] = {}
        self.by_action = False
        """Once loaded: an action redirects downloads too. So it is where there is no tcx, before Linux 6.6: there IFB
        may drop what a program redirects.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> "Program":
        if not self._loaded:
            # Only here: parsing an object takes pyelftools, which costs more than the rest.
            from chadthrottle.artifacts import check_fresh, object_path
            from chadthrottle.bpf.features import supported
            from chadthrottle.bpf.loader import load
            from chadthrottle.bpf.parse import open_object

            check_fresh("queue")
            self.by_action = not supported("tcx")
            constants = {
                "queue_device": self._own.is_queue,
                "queue_segment": self._own.segment,
                "queue_by_action": self.by_action,
            }
            spec = open_object(object_path("queue")).with_constants(constants)
            self._loaded = self._stack.enter_context(load(spec, reuse=self._lent)).programs
        return self._loaded[name]


def _line(handle: int) -> list[int]:
    """A class and those above it."""
    return [] if handle == shape.ROOT else [handle, *_line(shape.parent_of(handle))]


def _depth(handle: int) -> int:
    """Of a whole: 1."""
    return len(_line(handle))


def _is_queue(device: Device) -> bool:
    return device.name == DEVICE and device.kind == "ifb"


def is_worth_it(device: Device) -> bool:
    """Whether packets of limited programs arrive there, and only there."""
    return device.is_up and not device.is_loopback and device.kind != "ifb" and device.port_of not in _PORTS
