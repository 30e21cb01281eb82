"""tc by hand: HTB on the device for uploads, behind an IFB device for downloads. Limits whatever uses the device."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.accuracy.cells import Cell
from benchmarks.field.contenders.contender import Contender, debian
from benchmarks.field.place import Place, Unavailable, run
from chadthrottle.model import Direction
from tests.support.network import Endpoint

__all__ = ["HTB", "add_ifb"]

IFB = "ifb0"
LEAVES = (("fq_codel",), ("pfifo", "limit", "1000"))
"""What guides recommend, and what an Ethernet device has by default: the first that this kernel knows."""


def add_ifb(near: Endpoint) -> str:
    """An IFB device in the namespace, up."""
    run(near, "ip", "link", "add", IFB, "type", "ifb")
    run(near, "ip", "link", "set", IFB, "up")
    return IFB


@contextmanager
def _limit(place: Place, cell: Cell, _: int) -> Iterator[None]:
    near = place.near
    if cell.direction is Direction.UP:
        _shape(near, near.device, cell)
    else:
        _shape(near, add_ifb(near), cell)
        run(near, "tc", "qdisc", "add", "dev", near.device, "handle", "ffff:", "ingress")
        everything = ("protocol", "all", "u32", "match", "u32", "0", "0")
        redirect = ("action", "mirred", "egress", "redirect", "dev", IFB)
        run(near, "tc", "filter", "add", "dev", near.device, "parent", "ffff:", *everything, *redirect)
    yield  # it goes with the namespace


def _shape(near: Endpoint, device: str, cell: Cell) -> None:
    # Class and leaf first in mind, but tc wants the root first: until it has its class, HTB passes everything.
    run(near, "tc", "qdisc", "add", "dev", device, "root", "handle", "1:", "htb", "default", "10")
    rate = ("htb", "rate", f"{cell.rate * 8}bit")
    run(near, "tc", "class", "add", "dev", device, "parent", "1:", "classid", "1:10", *rate)
    for leaf in LEAVES:
        try:
            run(near, "tc", "qdisc", "add", "dev", device, "parent", "1:10", "handle", "10:", *leaf)
        except Unavailable:
            continue
        return


HTB = Contender(
    "tc",
    "tc HTB + IFB by hand",
    "An HTB class on the device (uploads) or on an IFB device fed by `mirred` (downloads), with a leaf of fq_codel or, "
    "in a kernel without it, of pfifo with 1000 packets; limits the device, not a program.",
    debian("iproute2", "tc"),
    _limit,
    packages=("iproute2",),
)
