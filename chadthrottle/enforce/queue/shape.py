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
    "bulk_leaves",
    "classes",
    "handle",
    "leaf_for_first",
    "owner_of",
    "parent_of",
    "whole_of",
    "wholes",
]

ROOT = THROTTLE_QUEUE_MAJOR << 16
"""The HTB's handle."""

# What goes first has a fifth of the rate for sure, and may use the rest if nobody else does: enough for the ACKs of an
# upload that is ten times the limit. At a fifth of the rate it waits for 90 ms at most.
_FIRST_PART = 5
_FIRST_HELD_NS = 18_000_000

# The rest is halved while TCP and others (a flood of datagrams) both want it, and TCP has what the first leave. TCP
# alone waits for 80 ms at most, beside a flood for 133, and its senders are told before. Others may give way to nobody:
# their queue is always full, and that is 100 ms at their half.
_TCP_HELD_NS = 80_000_000
_OTHER_HELD_NS = 40_000_000

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


class _Classes(NamedTuple):
    """whole ⊃ first, rest; rest ⊃ tcp, other."""

    whole: ThrottleClass
    first: ThrottleClass
    rest: ThrottleClass
    tcp: ThrottleClass
    other: ThrottleClass


_CLASSES = {
    ThrottleDirection.UP: _Classes(
        ThrottleClass.UP_WHOLE,
        ThrottleClass.UP_FIRST,
        ThrottleClass.UP_REST,
        ThrottleClass.UP_TCP,
        ThrottleClass.UP_OTHER,
    ),
    ThrottleDirection.DOWN: _Classes(
        ThrottleClass.DOWN_WHOLE,
        ThrottleClass.DOWN_FIRST,
        ThrottleClass.DOWN_REST,
        ThrottleClass.DOWN_TCP,
        ThrottleClass.DOWN_OTHER,
    ),
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
    return number, ThrottleDirection.UP if which < ThrottleClass.DOWN_TCP else ThrottleDirection.DOWN


def parent_of(class_handle: int) -> int:
    """ROOT is a whole's."""
    number, direction = owner_of(class_handle)
    all_classes = _CLASSES[direction]
    which = (class_handle & 0xFFFF) % THROTTLE_QUEUE_CLASSES
    if which == all_classes.whole:
        return ROOT
    is_below_rest = which in (all_classes.tcp, all_classes.other)
    return handle(number, all_classes.rest if is_below_rest else all_classes.whole)


def classes(rate: QueuedRate, segment_bytes: int) -> Iterator[HtbClass]:
    """Each may lend from its siblings."""
    total = rate.bytes_per_s
    first = max(1, total // _FIRST_PART)
    rest = total - first
    burst = max(segment_bytes, total * _BURST_NS // _NS_PER_S)
    each = _CLASSES[rate.direction]
    for which, sure, at_once, priority in (
        (each.whole, total, burst, 0),
        (each.first, first, segment_bytes, 0),
        (each.rest, rest, burst, 0),
        (each.tcp, rest - rest // 2, burst, 1),
        (each.other, max(1, rest // 2), burst, 2),
    ):
        made = handle(rate.number, which)
        yield HtbClass(parent_of(made), made, sure, total, at_once, priority)


def leaf_for_first(rate: QueuedRate) -> FirstLeaf:
    """What holds ACKs and the like."""
    parent = handle(rate.number, _CLASSES[rate.direction].first)
    held_bytes = rate.bytes_per_s * _FIRST_HELD_NS // _NS_PER_S
    return FirstLeaf(parent, _leaf_handle(parent), max(_LEAST_PACKETS, held_bytes // _FIRST_BYTES))


def bulk_leaves(rate: QueuedRate, segment_bytes: int) -> Iterator[BulkLeaf]:
    """What holds TCP, and what holds the others."""
    each = _CLASSES[rate.direction]
    longest = segment_bytes if rate.bytes_per_s < _WHOLE_BYTES_PER_S else _WHOLE_BYTES
    for which, held_ns in (each.tcp, _TCP_HELD_NS), (each.other, _OTHER_HELD_NS):
        parent = handle(rate.number, which)
        held_bytes = max(_LEAST_SEGMENTS * segment_bytes, rate.bytes_per_s * held_ns // _NS_PER_S)
        yield BulkLeaf(parent, _leaf_handle(parent), held_bytes, longest)


def _leaf_handle(parent: int) -> int:
    """A qdisc's handle is its major: the class's minor is one that nobody else has."""
    return (parent & 0xFFFF) << 16


def whole_of(class_handle: int) -> int:
    """The class that a part belongs to; a whole's is itself."""
    number, direction = owner_of(class_handle)
    return handle(number, _CLASSES[direction].whole)


def wholes(rates: Iterable[QueuedRate]) -> dict[int, QueuedRate]:
    """By the handle of the class for the whole: what a look at a queue's classes is compared with."""
    return {handle(rate.number, _CLASSES[rate.direction].whole): rate for rate in rates}
