"""The user's own qdiscs, filters and programs on a device: they see every packet, and are as they were afterwards."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from chadthrottle.bpf.constants import AttachType, ProgType
from chadthrottle.bpf.maps import Map
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.tcx_link import attach_tcx
from chadthrottle.netlink import CLSACT_EGRESS, CLSACT_INGRESS, TrafficControl
from tests.support import raw_programs as raw
from tests.support.network import Endpoint
from tests.support.queued import (
    datagrams,
    goes_through_queue,
    ip,
    links_pinned,
    receive_datagrams,
    recorded,
    require_limited,
    require_queued,
    tc,
    traffic_control,
    unmatched_filter,
    users_clsact,
)
from tests.support.rates import within
from tests.support.throttled import Scene

MAP_TYPE_ARRAY = 2
BPF_PSEUDO_MAP_FD = 1
BPF_FUNC_map_lookup_elem = 1  # as include/uapi/linux/bpf.h spells it
UNSPEC = -1
"""TCX_NEXT for a tcx program, TC_ACT_UNSPEC for a filter: the next one decides."""


@dataclass
class Counter:
    """A program that counts packets and lets them pass."""

    program: Program
    counted: Map

    @property
    def packets(self) -> int:
        value = self.counted.lookup(bytes(4))
        assert value is not None
        return int.from_bytes(value, "little")


@contextmanager
def counter(attach_type: AttachType | None = None) -> Iterator[Counter]:
    """For classic filters without attach type."""
    with ExitStack() as stack:
        counted = stack.enter_context(Map.create("ct_counted", MAP_TYPE_ARRAY, 4, 8, 1))
        code = [
            raw.instruction(0x62, dst=10, offset=-4),  # *(u32 *)(fp - 4) = 0
            raw.instruction(0x18, dst=1, src=BPF_PSEUDO_MAP_FD, immediate=counted.fd),
            raw.instruction(0),
            raw.instruction(0xBF, dst=2, src=10),
            raw.instruction(0x07, dst=2, immediate=-4),
            raw.instruction(0x85, immediate=BPF_FUNC_map_lookup_elem),
            raw.instruction(0x15, dst=0, offset=2),  # if r0 == 0 goto out
            raw.instruction(0xB7, dst=1, immediate=1),
            raw.instruction(0xDB, dst=0, src=1),  # atomic *(u64 *)r0 += r1
            raw.returning(UNSPEC),
        ]
        program = raw.load(ProgType.BPF_PROG_TYPE_SCHED_CLS, b"".join(code), expected_attach_type=attach_type)
        yield Counter(stack.enter_context(program), counted)


@contextmanager
def users_filter(endpoint: Endpoint, parent: int, preference: int) -> Iterator[Counter]:
    """A counter on the clsact that is there."""
    with counter() as made:
        with endpoint.entered(), TrafficControl() as control:
            control.add_filter(
                endpoint.ifindex, parent, (preference, 1), program_fd=made.program.fd, name="users_filter"
            )
        yield made


def see_every_datagram(stage: Scene, *counters: Counter) -> None:
    """Each one that a program receives, all of them through the queue."""
    program = stage.start()
    receive_datagrams(program, "down", 6000)
    stage.throttle(program)
    before = [each.packets for each in counters]
    with datagrams(stage.peer.endpoint, 6001, (stage.here.ipv4, 6000), 1000, pause_s=0.005):
        assert within(10, lambda: program.received() >= 100_000)
        assert goes_through_queue(stage, program, seconds=0.2) == 1
    received = program.received() // 1000
    seen = [each.packets - was for each, was in zip(counters, before, strict=True)]
    assert min(seen) >= received, (seen, received)
    stage.release(program)


def test_filters_before_ours_see_every_packet(stage: Scene) -> None:
    users_clsact(stage.here)
    with (
        users_filter(stage.here, CLSACT_INGRESS, 10) as first,
        users_filter(stage.here, CLSACT_INGRESS, 0xFFFE) as last,
    ):
        before = traffic_control(stage.here)
        see_every_datagram(stage, first, last)
        assert traffic_control(stage.here) == before


def test_filters_added_after_ours_see_every_packet(stage: Scene) -> None:
    tc(stage.here, "qdisc", "add", "dev", "veth0", "clsact")
    with users_filter(stage.here, CLSACT_INGRESS, 10):
        stage.throttle(stage.start())
        with users_filter(stage.here, CLSACT_INGRESS, 20) as late:
            see_every_datagram(stage, late)


def test_tcx_gives_way_to_a_filter_that_came_later(stage: Scene) -> None:
    """At the next command: till then it sees no limited packet."""
    stage.throttle(stage.start())
    if not links_pinned(stage):
        pytest.skip("needs tcx")
    tc(stage.here, "qdisc", "add", "dev", "veth0", "clsact")
    with users_filter(stage.here, CLSACT_INGRESS, 10) as late:
        see_every_datagram(stage, late)
        assert not links_pinned(stage)
        stage.release()
        assert "users_filter" in tc(stage.here, "filter", "show", "dev", "veth0", "ingress")


@pytest.mark.usefixtures("tcx")
def test_other_tcx_programs_see_every_packet(stage: Scene) -> None:
    """Those that were there first, and from the next command on those that came later."""
    with ExitStack() as stack:
        counters = []
        for later in False, True:
            made = stack.enter_context(counter(AttachType.BPF_TCX_INGRESS))
            with stage.here.entered():
                stack.enter_context(attach_tcx(made.program, stage.here.ifindex))
            counters.append(made)
            if not later:
                stage.throttle(stage.start())
        see_every_datagram(stage, *counters)
        stage.release()
        before = counters[0].packets
        program = stage.start()
        program.busy_download()
        assert within(2, lambda: counters[0].packets > before)


def test_everything_is_as_it_was(stage: Scene) -> None:
    tc(stage.here, "qdisc", "add", "dev", "veth0", "root", "handle", "1:", "htb")
    tc(stage.here, "class", "add", "dev", "veth0", "parent", "1:", "classid", "1:1", "htb", "rate", "1gbit")
    users_clsact(stage.here)
    with users_filter(stage.here, CLSACT_EGRESS, 7):
        before = traffic_control(stage.here)
        program = stage.start()
        program.busy_download()
        stage.throttle(program)
        require_queued(stage, program)
        stage.release()
        assert traffic_control(stage.here) == before


def test_the_older_ingress_qdisc_stays(stage: Scene) -> None:
    tc(stage.here, "qdisc", "add", "dev", "veth0", "ingress")
    unmatched_filter(stage.here)
    before = traffic_control(stage.here)
    program = stage.start()
    program.busy_download()
    stage.throttle(program)
    require_queued(stage, program)
    stage.release()
    assert traffic_control(stage.here) == before


def test_own_clsact_stays_while_others_use_it(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from chadthrottle.bpf.errors import NotSupportedError
    from chadthrottle.enforce.queue import place

    def refuse(*_: object, **__: object) -> None:
        raise NotSupportedError("tcx", "6.6")

    monkeypatch.setattr(place, "attach_tcx", refuse)
    nothing = traffic_control(stage.here)
    stage.throttle(stage.start())
    assert [each.own_clsact for each in recorded(stage) if each.ifindex] == [1]
    with users_filter(stage.here, CLSACT_INGRESS, 10):
        stage.release()
        shown = tc(stage.here, "filter", "show", "dev", "veth0", "ingress")
        assert "users_filter" in shown
        assert "chadthrottle" not in shown
    tc(stage.here, "qdisc", "del", "dev", "veth0", "clsact")
    stage.throttle(stage.start())
    stage.release()
    assert traffic_control(stage.here) == nothing


def test_filters_removed_by_hand_are_put_back(stage: Scene) -> None:
    """With all of clsact: what is limited is policed until the next command."""
    users_clsact(stage.here)
    program = stage.start()
    program.busy_download()
    stage.throttle(program)
    tc(stage.here, "qdisc", "del", "dev", "veth0", "clsact")
    require_limited(stage, program)
    assert goes_through_queue(stage, program, seconds=0.2) == 0
    stage.throttle(stage.start())
    require_queued(stage, program)


def test_a_device_of_another_kind_with_our_name(stage: Scene) -> None:
    """Is not touched: the limit is held by policing, and that is said."""
    ip(stage.here, "link", "add", "chadthrottle", "type", "bridge")
    before = traffic_control(stage.here)
    done = stage.throttle(stage.start())
    assert "another kind (bridge)" in " ".join(done.notes)
    stage.release()
    assert traffic_control(stage.here) == before
