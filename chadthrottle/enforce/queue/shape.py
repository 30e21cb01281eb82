"""What a rule's rate means to HTB and tbf. Pure."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from chadthrottle.abi import (
    THROTTLE_QUEUE_CLASSES,
    THROTTLE_QUEUE_MAJOR,
    ThrottleClass,
    ThrottleDirection,
)

__all__ = ["ROOT", "HtbClass", "Leaf", "QueuedRate", "classes", "handle", "leaves", "owner_of", "whole_of", "wholes"]

ROOT = THROTTLE_QUEUE_MAJOR << 16
"""The HTB's handle."""

DELAY_NS = 90_000_000
"""What the queue holds at most, in time at the rule's rate: with what is just being sent it stays below 100 ms."""

# Of the rate, what goes first has this part for sure, and may use the rest if nobody else does.
_FIRST_PART = 10

# A class may send this much at once. HTB is woken by timers, which are late by tenths of a millisecond.
_BURST_NS = 1_000_000

# From 2 Gbit/s on buffers stay whole: one is a quarter of a millisecond there, and 800 000 segments a second are more
# than a processor passes on.
_WHOLE_BYTES_PER_S = 250_000_000
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


class Leaf(NamedTuple):
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


def leaves(rate: QueuedRate, segment_bytes: int) -> Iterator[Leaf]:
    """What the two parts hold."""
    _, first, rest = (handle(rate.number, which) for which in _CLASSES[rate.direction])
    held = rate.bytes_per_s * DELAY_NS // _NS_PER_S
    # A qdisc's handle is its major: the class's minor is one that nobody else has.
    for_first = max(2 * segment_bytes, held // _FIRST_PART)
    for_rest = max(_LEAST_SEGMENTS * segment_bytes, held - held // _FIRST_PART)
    longest = segment_bytes if rate.bytes_per_s < _WHOLE_BYTES_PER_S else _WHOLE_BYTES
    yield Leaf(first, (first & 0xFFFF) << 16, for_first, longest)
    yield Leaf(rest, (rest & 0xFFFF) << 16, for_rest, longest)


def whole_of(class_handle: int) -> int:
    """The class that a part belongs to; a whole's is itself."""
    number, direction = owner_of(class_handle)
    return handle(number, _CLASSES[direction][0])


def wholes(rates: Iterable[QueuedRate]) -> dict[int, QueuedRate]:
    """By the handle of the class for the whole: what a look at a queue's classes is compared with."""
    return {handle(rate.number, _CLASSES[rate.direction][0]): rate for rate in rates}
