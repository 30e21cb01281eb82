"""A rate's classes and leaves, made or changed on a device. Raises NotPermittedError, KernelCannotError."""

from chadthrottle.enforce.queue import shape
from chadthrottle.enforce.queue.shape import QueuedRate
from chadthrottle.netlink import TrafficControl

__all__ = ["set_leaves", "set_rates"]


def set_rates(tc: TrafficControl, ifindex: int, rate: QueuedRate, segment_bytes: int) -> None:
    """The classes; the device's root is the HTB `shape.ROOT`."""
    for each in shape.classes(rate, segment_bytes):
        tc.set_class(
            ifindex,
            each.parent,
            each.handle,
            rate_bytes_per_s=each.rate_bytes_per_s,
            ceil_bytes_per_s=each.ceil_bytes_per_s,
            burst_bytes=each.burst_bytes,
            priority=each.priority,
        )


def set_leaves(tc: TrafficControl, ifindex: int, rate: QueuedRate, segment_bytes: int) -> None:
    """What the classes hold; they are there."""
    first = shape.leaf_for_first(rate)
    tc.set_first_leaf(ifindex, first.parent, first.handle, limit_packets=first.limit_packets)
    for bulk in shape.bulk_leaves(rate, segment_bytes):
        tc.set_bulk_leaf(
            ifindex, bulk.parent, bulk.handle, limit_bytes=bulk.limit_bytes, segment_bytes=bulk.segment_bytes
        )
