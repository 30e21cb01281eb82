"""How the queues are that limits in force go through. Nothing is changed."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from chadthrottle.enforce.namespaces import namespaces_by_inode
from chadthrottle.enforce.queue.place import DEVICE, is_worth_it
from chadthrottle.enforce.queue.records import Record
from chadthrottle.netlink import Device, Links

__all__ = ["QueueState", "state_of"]


class QueueState(NamedTuple):
    """Names of devices, with their namespace if it is not the caller's."""

    removed: tuple[str, ...]
    down: tuple[str, ...]
    uncovered: tuple[str, ...]


def state_of(records: Sequence[Record]) -> QueueState:
    """In all namespaces that `records` tell of and that are there still. Raises as netlink.Links, OSError."""
    removed: list[str] = []
    down: list[str] = []
    uncovered: list[str] = []
    home = _inode()

    def look() -> None:
        inode = _inode()
        where = "" if inode == home else f" in network namespace {inode}"
        mine = [each for each in records if each.namespace == inode]
        with Links() as links:
            devices = links.devices()
        own = _own(mine, devices)
        if own is None:
            removed.append(f"{DEVICE}{where}")
        elif not own.is_up:
            down.append(f"{DEVICE}{where}")
        covered = {each.ifindex for each in mine}
        uncovered.extend(f"{each.name}{where}" for each in devices if is_worth_it(each) and each.ifindex not in covered)

    with namespaces_by_inode({each.namespace for each in records}) as places:
        places.each(look)
    return QueueState(tuple(removed), tuple(down), tuple(uncovered))


def _own(mine: Sequence[Record], devices: Sequence[Device]) -> Device | None:
    index = next((each.is_queue for each in mine if not each.ifindex), 0)
    return next(
        (each for each in devices if each.name == DEVICE and each.kind == "ifb" and each.ifindex == index), None
    )


def _inode() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino  # noqa: PTH116 # as elsewhere
