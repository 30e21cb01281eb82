"""What a rule's rate means to HTB and the qdiscs in its classes. Pure."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from chadthrottle.abi import (
    THROTTLE_QUEUE_CLASSES,
    THROTTLE_QUEUE_MAJOR,
    ThrottleClass,
    ThrottleDirection,
)

__all__ = [
    "ROOT",
    "BulkLeaf",
    "FirstLeaf",
    "HtbClass",
    "QueuedRate",
    "classes",
    "handle",
    "leaf_for_first",
    "leaf_for_rest",
    "owner_of",
    "whole_of",
    "wholes",
]

ROOT = THROTTLE_QUEUE_MAJOR << 16
"""The HTB's handle."""

# What goes first has a fifth of the rate for sure, and may use the rest if nobody else does: enough for the ACKs of an
# upload that is ten times the limit. At a fifth of the rate it waits for 90 ms at most, and bulk at the rest for 100.
_FIRST_PART = 5
_FIRST_HELD_NS = 18_000_000
_REST_HELD_NS = 80_000_000

# What goes first is small, and held as so many packets: the oldest leave when there is no room, for the newest ACK says
# all that those before it say.
_FIRST_BYTES = 128
_LEAST_PACKETS = 4

# A class may send this much at once. HTB is woken by timers, which are late by tenths of a millisecond.
_BURST_NS = 1_000_000

# From 0.8 Gbit/s on buffers stay whole: one is half a millisecond there, and 70 000 segments a second by themselves are
# all that a processor passes on beside TCP. Below, a buffer that finds no room would be too much of what is under way.
_WHOLE_BYTES_PER_S = 100_000_000
_WHOLE_BYTES = 1 << 20  # more than BIG TCP makes (GSO_MAX_SIZE)

# Three segments: fewer, and a TCP connection alone cannot fill the link.
_LEAST_SEGMENTS = 3

_NS_PER_S = 1_000_000_000

_CLASSES = {
    ThrottleDirection.UP: (ThrottleClass.UP_WHOLE, ThrottleClass.UP_FIRST, ThrottleClass.UP),
    ThrottleDirection.DOWN: (ThrottleClass.DOWN_WHOLE, ThrottleClass.DOWN_FIRST, ThrottleClass.DOWN),
}


class QueuedRate(NamedTuple):
    """One direction of one rule."""

    number: int
    """throttle_rule.queue."""
    direction: ThrottleDirection
    bytes_per_s: int


class HtbClass(NamedTuple):
    """In the order of making: parents first."""

    parent: int
    handle: int
    rate_bytes_per_s: int
    ceil_bytes_per_s: int
    burst_bytes: int
    priority: int


class FirstLeaf(NamedTuple):
    """A pfifo_head_drop in a class."""

    parent: int
    handle: int
    limit_packets: int


class BulkLeaf(NamedTuple):
    """A tbf in a class."""

    parent: int
    handle: int
    limit_bytes: int
    segment_bytes: int
    """GSO buffers that are longer are taken apart."""


def handle(number: int, which: ThrottleClass) -> int:
    """A class of a rule."""
    return ROOT | (number * THROTTLE_QUEUE_CLASSES + which)


def owner_of(class_handle: int) -> tuple[int, ThrottleDirection]:
    """Whose class it is: the rule's number, and the direction."""
    number, which = divmod(class_handle & 0xFFFF, THROTTLE_QUEUE_CLASSES)
    return number, ThrottleDirection.UP if which < ThrottleClass.DOWN else ThrottleDirection.DOWN


def classes(rate: QueuedRate, segment_bytes: int) -> Iterator[HtbClass]:
    """The whole, and its two parts; each may lend from the other."""
    whole, first, rest = (handle(rate.number, which) for which in _CLASSES[rate.direction])
    total = rate.bytes_per_s
    for_first = max(1, total // _FIRST_PART)
    burst = max(segment_bytes, total * _BURST_NS // _NS_PER_S)
    yield HtbClass(ROOT, whole, total, total, burst, 0)
    yield HtbClass(whole, first, for_first, total, segment_bytes, 0)
    yield HtbClass(whole, rest, total - for_first, total, burst, 1)


def leaf_for_first(rate: QueuedRate) -> FirstLeaf:
    """What holds ACKs and the like."""
    parent = handle(rate.number, _CLASSES[rate.direction][1])
    held_bytes = rate.bytes_per_s * _FIRST_HELD_NS // _NS_PER_S
    return FirstLeaf(parent, _leaf_handle(parent), max(_LEAST_PACKETS, held_bytes // _FIRST_BYTES))


def leaf_for_rest(rate: QueuedRate, segment_bytes: int) -> BulkLeaf:
    """What holds the others."""
    parent = handle(rate.number, _CLASSES[rate.direction][2])
    held_bytes = rate.bytes_per_s * _REST_HELD_NS // _NS_PER_S
    longest = segment_bytes if rate.bytes_per_s < _WHOLE_BYTES_PER_S else _WHOLE_BYTES
    return BulkLeaf(parent, _leaf_handle(parent), max(_LEAST_SEGMENTS * segment_bytes, held_bytes), longest)


def _leaf_handle(parent: int) -> int:
    """A qdisc's handle is its major: the class's minor is one that nobody else has."""
    return (parent & 0xFFFF) << 16


def whole_of(class_handle: int) -> int:
    """The class that a part belongs to; a whole's is itself."""
    number, direction = owner_of(class_handle)
    return handle(number, _CLASSES[direction][0])


def wholes(rates: Iterable[QueuedRate]) -> dict[int, QueuedRate]:
    """By the handle of the class for the whole: what a look at a queue's classes is compared with."""
    return {handle(rate.number, _CLASSES[rate.direction][0]): rate for rate in rates}
