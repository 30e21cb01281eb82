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
# include/uapi/linux/pkt_sched.h
TC_PRIO_MAX, TC_PRIO_BESTEFFORT, TC_PRIO_INTERACTIVE_BULK, TC_PRIO_INTERACTIVE = 15, 0, 4, 6

rates = st.builds(
    QueuedRate,
    number=st.integers(1, THROTTLE_MAX_QUEUES),
    direction=st.sampled_from(ThrottleDirection),
    bytes_per_s=st.integers(1000, 12_500_000_000),
)


@given(rates)
def test_the_parts_make_the_whole(rate: QueuedRate) -> None:
    whole, first, rest, tcp, other = shape.classes(rate, SEGMENT)
    assert whole.rate_bytes_per_s == rate.bytes_per_s
    assert first.rate_bytes_per_s + rest.rate_bytes_per_s == whole.rate_bytes_per_s
    assert tcp.rate_bytes_per_s + other.rate_bytes_per_s == rest.rate_bytes_per_s
    assert 0 <= tcp.rate_bytes_per_s - other.rate_bytes_per_s <= 1
    assert {each.ceil_bytes_per_s for each in (whole, first, rest, tcp, other)} == {rate.bytes_per_s}
    assert min(first.rate_bytes_per_s, other.rate_bytes_per_s) > 0, "HTB refuses a rate of 0"
    assert (whole.parent, first.parent, rest.parent) == (shape.ROOT, whole.handle, whole.handle)
    assert tcp.parent == other.parent == rest.handle
    assert first.priority < tcp.priority < other.priority


@given(rates)
def test_what_waits_is_bounded_in_time(rate: QueuedRate) -> None:
    """At the rate that is for sure (TCP's: while there are no others); below, so few segments that TCP needs them."""
    _, for_first, for_rest, for_tcp, for_other = shape.classes(rate, SEGMENT)
    first = shape.leaf_for_first(rate)
    assert first.parent == for_first.handle
    assert first.limit_packets >= 4
    assert first.limit_packets == 4 or first.limit_packets * 128 / for_first.rate_bytes_per_s <= 0.1001
    tcp, other = shape.bulk_leaves(rate, SEGMENT)
    assert (tcp.parent, other.parent) == (for_tcp.handle, for_other.handle)
    for leaf, served in (tcp, for_rest), (other, for_other):
        assert leaf.limit_bytes >= 3 * SEGMENT
        assert leaf.limit_bytes == 3 * SEGMENT or leaf.limit_bytes / served.rate_bytes_per_s <= 0.1001


@pytest.mark.parametrize("direction", ThrottleDirection)
def test_no_two_rules_share_a_class_or_a_leaf(direction: ThrottleDirection) -> None:
    other = ThrottleDirection(1 - direction)
    seen: set[int] = set()
    for number in range(1, THROTTLE_MAX_QUEUES + 1):
        for rate in QueuedRate(number, direction, 10**6), QueuedRate(number, other, 10**6):
            handles = [each.handle for each in shape.classes(rate, SEGMENT)]
            handles.append(shape.leaf_for_first(rate).handle)
            handles += [each.handle for each in shape.bulk_leaves(rate, SEGMENT)]
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
        assert shape.parent_of(each.handle) == each.parent
        assert each.handle >> 16 == THROTTLE_QUEUE_MAJOR
    assert shape.wholes([rate]) == {whole.handle: rate}


def test_uploads_keep_a_harmless_priority_for_the_qdisc_behind() -> None:
    """pfifo_fast and prio take the last bits of skb->priority for one: the middle band, or the first."""
    held = (ThrottleClass.UP_TCP, ThrottleClass.UP_OTHER, ThrottleClass.UP_FIRST)
    for number in 1, 77, THROTTLE_MAX_QUEUES:
        found = tuple(shape.handle(number, each) & TC_PRIO_MAX for each in held)
        assert found == (TC_PRIO_BESTEFFORT, TC_PRIO_INTERACTIVE_BULK, TC_PRIO_INTERACTIVE)
