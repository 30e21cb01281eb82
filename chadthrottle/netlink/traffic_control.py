"""Qdiscs, classes and filters of a network namespace, as far as a queue needs them."""

import errno
from collections.abc import Iterable
from dataclasses import dataclass

from chadthrottle.errors import ChadthrottleError
from chadthrottle.netlink import messages
from chadthrottle.netlink.errors import answered, told
from chadthrottle.netlink.route import Route

__all__ = ["Filter", "TrafficControl"]


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter on a clsact, or on the older ingress qdisc."""

    kind: str
    preference: int
    handle: int
    name: str
    """A cls_bpf filter's; else empty."""


class TrafficControl(Route):
    """The queueing of a network namespace's devices."""

    def make_htb(self, ifindex: int, handle: int) -> None:
        """The device's root qdisc; classes that are there stay."""
        self._do("make an HTB qdisc", messages.htb_root(ifindex, handle))

    def has_htb(self, ifindex: int, handle: int) -> bool:
        """Whether the device's root qdisc is the HTB with this handle."""
        with told("list the qdiscs"):
            found = self._route.get_qdiscs(index=ifindex)
        return any(each["handle"] == handle and each.get_attr("TCA_KIND") == "htb" for each in found)

    def set_class(
        self,
        ifindex: int,
        parent: int,
        handle: int,
        *,
        rate_bytes_per_s: int,
        ceil_bytes_per_s: int,
        burst_bytes: int,
        priority: int = 0,
    ) -> None:
        """Make a class, or give it other rates. `priority` 0 goes before 1 where both could go."""
        request = messages.htb_class(
            ifindex,
            parent,
            handle,
            rate_bytes_per_s=rate_bytes_per_s,
            ceil_bytes_per_s=ceil_bytes_per_s,
            burst_bytes=burst_bytes,
            quantum_bytes=_QUANTUM_BYTES,
            priority=priority,
        )
        self._do("make an HTB class", request)

    def set_first_leaf(self, ifindex: int, parent: int, handle: int, *, limit_packets: int) -> None:
        """What waits in a class: at most so many packets, the newest."""
        request = messages.queue_of_the_newest(ifindex, parent, handle, limit_packets=limit_packets)
        self._do("make a pfifo_head_drop qdisc", request)

    def set_bulk_leaf(self, ifindex: int, parent: int, handle: int, *, limit_bytes: int, segment_bytes: int) -> None:
        """What waits in a class: at most so many bytes, in segments of at most so many."""
        request = messages.splitting_queue(
            ifindex, parent, handle, limit_bytes=limit_bytes, segment_bytes=segment_bytes
        )
        self._do("make a tbf qdisc", request)

    def remove_class(self, ifindex: int, handle: int) -> None:
        """It may be gone."""
        self._do_if_there("remove an HTB class", messages.delete_class(ifindex, handle))

    def waiting_bytes(self, ifindex: int) -> dict[int, int]:
        """What waits in each HTB class, by handle."""
        with told("list the classes"):
            found = self._route.get_classes(index=ifindex)
        # A tbf has a class of its own, which is told of too.
        return {each["handle"]: _waiting(each) for each in found if each.get_attr("TCA_KIND") == "htb"}

    def leaf_drops(self, ifindex: int) -> dict[int, int]:
        """Packets that qdiscs below classes have dropped, by the class they are in."""
        with told("list the qdiscs"):
            found = self._route.get_qdiscs(index=ifindex)
        return {
            each["parent"]: each.get_attr("TCA_STATS2").get_attr("TCA_STATS_QUEUE")["drops"]
            for each in found
            if each["parent"] != messages.TC_H_ROOT
        }

    def clsacts(self) -> dict[int, str]:
        """By device: the kind of qdisc that filters of ingress hang on, "clsact" or "ingress"."""
        with told("list the qdiscs"):
            found = self._route.get_qdiscs()
        return {each["index"]: each.get_attr("TCA_KIND") for each in found if each["handle"] == messages.CLSACT}

    def add_clsact(self, ifindex: int) -> None:
        self._do("make a clsact qdisc", messages.add_clsact(ifindex))

    def remove_clsact(self, ifindex: int) -> None:
        """It may be gone."""
        self._do_if_there(
            "remove a clsact qdisc", messages.delete_qdisc(ifindex, messages.CLSACT, messages.CLSACT_PARENT)
        )

    def filters(self, ifindex: int, parent: int) -> list[Filter]:
        """Those on `parent`: messages.CLSACT_INGRESS or CLSACT_EGRESS. None if it is not there."""
        try:
            with told("list the filters"):
                found = list(self._route.get_filters(index=ifindex, parent=parent))
        except ChadthrottleError as error:
            if answered(error) in _GONE:
                return []
            raise
        # Each preference of each protocol is told of by itself too, with handle 0.
        return [_filter(each) for each in found if each["handle"]]

    def add_filter(
        self, ifindex: int, parent: int, place: tuple[int, int], *, program_fd: int, name: str, redirect_to: int = 0
    ) -> None:
        """A program as a filter at `place`, a preference and a handle; see messages.bpf_filter."""
        request = messages.bpf_filter(
            ifindex, parent, *place, program_fd=program_fd, name=name, redirect_to=redirect_to
        )
        self._do("add a bpf filter", request)

    def remove_filter(self, ifindex: int, parent: int, place: tuple[int, int]) -> None:
        """It may be gone."""
        self._do_if_there("remove a bpf filter", messages.delete_filter(ifindex, parent, *place))

    def _do(self, what: str, *requests: messages.Message) -> None:
        with told(what):
            list(self._route.nlm_request_batch(list(requests)))

    def _do_if_there(self, what: str, *requests: messages.Message) -> None:
        try:
            self._do(what, *requests)
        except ChadthrottleError as error:
            if answered(error) not in _GONE:
                raise


# Qdisc, class or filter; device; what it hung on (EINVAL: the qdisc that a parent or handle names is not there).
_GONE: Iterable[int] = (errno.ENOENT, errno.ENODEV, errno.EINVAL)

# Only one class of a priority ever competes for what is left: the turns that quanta make are none.
_QUANTUM_BYTES = 60_000


def _waiting(message: messages.Message) -> int:
    return int(message.get_attr("TCA_STATS2").get_attr("TCA_STATS_QUEUE")["backlog"])


def _filter(message: messages.Message) -> Filter:
    kind = message.get_attr("TCA_KIND")
    options = message.get_attr("TCA_OPTIONS") if kind == "bpf" else None
    name = (options and options.get_attr("TCA_BPF_NAME")) or ""
    return Filter(kind, message["info"] >> 16, message["handle"], name)
