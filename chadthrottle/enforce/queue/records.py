"""The map `queues`: what was done to which network device, so that whatever was begun is found and undone."""

from typing import NamedTuple

from chadthrottle.abi import ThrottleDevice, ThrottleQueue
from chadthrottle.bpf.maps import Map

__all__ = ["Record", "forget", "read", "write"]


class Record(NamedTuple):
    """One device."""

    namespace: int
    """Inode of its network namespace."""
    ifindex: int
    """0: the queue's own device, which has none before it is made; then it is in `is_queue`."""
    is_queue: int = 0
    """Index of the IFB, or 1 while it is being made."""
    by_link: int = 0
    """Its ingress has a tcx link."""
    by_filter: int = 0
    """Bits 1 << ThrottleDirection: our filters on its clsact."""
    own_clsact: int = 0
    """We made that clsact."""
    segment: int = 0
    """Of a queue's own device: bytes of the longest packet that its classes take, with link header."""

    @property
    def pin_name(self) -> str:
        """Of the tcx link."""
        return f"queue-{self.namespace}-{self.ifindex}"


def read(queues: Map) -> list[Record]:
    """All of them, a queue's own device before the devices of its namespace."""
    found = []
    for key, value in list(queues.items()):
        device, queue = ThrottleDevice.from_buffer_copy(key), ThrottleQueue.from_buffer_copy(value)
        done = (queue.is_queue, queue.by_link, queue.by_filter, queue.own_clsact, queue.segment)
        found.append(Record(device.namespace, device.ifindex, *done))
    return sorted(found)


def write(queues: Map, record: Record) -> None:
    """Raises BpfError (E2BIG: too many devices)."""
    value = ThrottleQueue(record.is_queue, record.by_link, record.by_filter, record.own_clsact, record.segment)
    queues.update(_key(record), bytes(value))


def forget(queues: Map, record: Record) -> None:
    """It may be forgotten already."""
    key = _key(record)
    if queues.lookup(key) is not None:
        queues.delete(key)


def _key(record: Record) -> bytes:
    return bytes(ThrottleDevice(record.namespace, record.ifindex))
