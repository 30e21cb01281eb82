"""Queues of ours that no record tells of, in any network namespace: IFB devices and filters."""

import os
from typing import NamedTuple

from chadthrottle.abi import ThrottleDirection
from chadthrottle.enforce.namespaces import all_namespaces
from chadthrottle.enforce.queue.place import DEVICE, FILTER, PARENTS
from chadthrottle.enforce.queue.records import Record
from chadthrottle.netlink import Links, TrafficControl

__all__ = ["Stray", "remove", "strays"]


class Stray(NamedTuple):
    """A device of ours, or a filter of ours on somebody's."""

    namespace: int
    ifindex: int
    device: str
    direction: ThrottleDirection | None
    """Of a filter; None: it is the device itself."""
    home: bool
    """In the network namespace of whoever asks."""

    def __str__(self) -> str:
        where = "" if self.home else f" in network namespace {self.namespace}"
        if self.direction is None:
            return f"device {self.device}{where}"
        side = "ingress" if self.direction is ThrottleDirection.DOWN else "egress"
        return f"filter {DEVICE} on {self.device} {side}{where}"


def strays(records: tuple[Record, ...]) -> list[Stray]:
    """What `records` do not tell of; filters first, which send to the device. Raises as Links, TrafficControl."""
    found: list[Stray] = []
    home = _inode()

    def look() -> None:
        found.extend(_here(records, home))

    with all_namespaces() as places:
        places.each(look)
    return sorted(found, key=lambda each: each.direction is None)


def remove(found: list[Stray]) -> None:
    """Exactly these. Whatever is gone already is no matter."""

    def here() -> None:
        inode = _inode()
        with Links() as links, TrafficControl() as tc:
            for each in found:
                if each.namespace != inode:
                    continue
                if each.direction is not None:
                    tc.remove_filter(each.ifindex, PARENTS[each.direction], FILTER)
                elif any(device.ifindex == each.ifindex and device.name == DEVICE for device in links.devices()):
                    links.remove(each.ifindex)

    with all_namespaces() as places:
        places.each(here)


def _here(records: tuple[Record, ...], home: int) -> list[Stray]:
    inode = _inode()
    mine = {each.ifindex: each for each in records if each.namespace == inode}
    found = []
    with Links() as links, TrafficControl() as tc:
        devices = links.devices()
        if 0 not in mine:
            found += [
                Stray(inode, each.ifindex, each.name, None, inode == home)
                for each in devices
                if each.name == DEVICE and each.kind == "ifb"
            ]
        clsacts = tc.clsacts()
        for device in devices:
            if device.ifindex not in clsacts:
                continue
            recorded = mine[device.ifindex].by_filter if device.ifindex in mine else 0
            for direction, parent in PARENTS.items():
                ours = any(
                    each.name == DEVICE and (each.preference, each.handle) == FILTER
                    for each in tc.filters(device.ifindex, parent)
                )
                if ours and not recorded & 1 << direction:
                    found.append(Stray(inode, device.ifindex, device.name, direction, inode == home))
    return found


def _inode() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino  # noqa: PTH116 # as elsewhere
