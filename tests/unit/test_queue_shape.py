"""A rate as HTB and tbf have it (chadthrottle/enforce/queue/shape.py)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chadthrottle.abi import (
    THROTTLE_MAX_QUEUES,
    THROTTLE_QUEUE_MAJOR,
    ThrottleClass,
    ThrottleDirection,
)
from chadthrottle.enforce.queue import shape
from chadthrottle.enforce.queue.shape import QueuedRate

SEGMENT = 1518
TC_PRIO_MAX, TC_PRIO_BESTEFFORT, TC_PRIO_INTERACTIVE = 15, 0, 6  # include/uapi/linux/pkt_sched.h

rates = st.builds(
    QueuedRate,
    number=st.integers(1, THROTTLE_MAX_QUEUES),
    direction=st.sampled_from(ThrottleDirection),
    bytes_per_s=st.integers(1000, 12_500_000_000),
)


@given(rates)
def test_two_parts_make_the_whole(rate: QueuedRate) -> None:
    whole, first, rest = shape.classes(rate, SEGMENT)
    assert whole.rate_bytes_per_s == whole.ceil_bytes_per_s == rate.bytes_per_s
    assert first.rate_bytes_per_s + rest.rate_bytes_per_s == rate.bytes_per_s
    assert first.ceil_bytes_per_s == rest.ceil_bytes_per_s == rate.bytes_per_s
    assert min(first.rate_bytes_per_s, rest.rate_bytes_per_s) > 0, "HTB refuses a rate of 0"
    assert (whole.parent, first.parent, rest.parent) == (shape.ROOT, whole.handle, whole.handle)
    assert first.priority < rest.priority


@given(rates)
def test_what_waits_is_bounded_in_time(rate: QueuedRate) -> None:
    """A part is served at its own rate at least; below, by so few segments that TCP needs them."""
    _, for_first, for_rest = shape.classes(rate, SEGMENT)
    first, rest = shape.leaf_for_first(rate), shape.leaf_for_rest(rate, SEGMENT)
    assert (first.parent, rest.parent) == (for_first.handle, for_rest.handle)
    assert first.limit_packets >= 4
    assert first.limit_packets == 4 or first.limit_packets * 128 / for_first.rate_bytes_per_s <= 0.1001
    assert rest.limit_bytes >= 3 * SEGMENT
    assert rest.limit_bytes == 3 * SEGMENT or rest.limit_bytes / for_rest.rate_bytes_per_s <= 0.1001


@pytest.mark.parametrize("direction", ThrottleDirection)
def test_no_two_rules_share_a_class_or_a_leaf(direction: ThrottleDirection) -> None:
    other = ThrottleDirection(1 - direction)
    seen: set[int] = set()
    for number in range(1, THROTTLE_MAX_QUEUES + 1):
        for rate in QueuedRate(number, direction, 10**6), QueuedRate(number, other, 10**6):
            handles = [each.handle for each in shape.classes(rate, SEGMENT)]
            handles += [shape.leaf_for_first(rate).handle, shape.leaf_for_rest(rate, SEGMENT).handle]
            assert not seen.intersection(handles)
            seen.update(handles)
    assert shape.ROOT not in seen
    assert all(0 < handle < 1 << 32 for handle in seen)


@given(rates)
def test_a_class_tells_whose_it_is(rate: QueuedRate) -> None:
    whole, *parts = shape.classes(rate, SEGMENT)
    for each in whole, *parts:
        assert shape.owner_of(each.handle) == (rate.number, rate.direction)
        assert shape.whole_of(each.handle) == whole.handle
        assert each.handle >> 16 == THROTTLE_QUEUE_MAJOR
    assert shape.wholes([rate]) == {whole.handle: rate}


def test_uploads_keep_a_harmless_priority_for_the_qdisc_behind() -> None:
    """pfifo_fast and prio take the last bits of skb->priority for one."""
    for number in 1, 77, THROTTLE_MAX_QUEUES:
        bulk, first = (shape.handle(number, each) & TC_PRIO_MAX for each in (ThrottleClass.UP, ThrottleClass.UP_FIRST))
        assert (bulk, first) == (TC_PRIO_BESTEFFORT, TC_PRIO_INTERACTIVE)
