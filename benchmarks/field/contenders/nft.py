"""nftables: drops what exceeds a rate, of the sockets of a cgroup."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.accuracy.cells import Cell
from benchmarks.field.contenders.contender import Contender, debian
from benchmarks.field.place import Place, run
from chadthrottle.model import Direction
from tests.support.cgroups import cgroup2_root

__all__ = ["NFT"]

# Where nft looks a cgroup up by its path, wherever cgroup2 is mounted below.
NFT_CGROUPS = Path("/sys/fs/cgroup")

RULES = """
table inet field {{
    chain limited {{
        type filter hook {hook} priority 0
        socket cgroupv2 level {level} "{cgroup}" limit rate over {rate} bytes/second drop
    }}
}}
"""


@contextmanager
def _limit(place: Place, cell: Cell, _: int) -> Iterator[None]:
    root = cgroup2_root()
    assert root is not None
    rules = RULES.format(
        hook="output" if cell.direction is Direction.UP else "input",
        level=len(place.limited.relative_to(root).parts),
        cgroup=os.path.relpath(place.limited, NFT_CGROUPS),
        rate=cell.rate,
    )
    run(place.near, "nft", "-f", "-", stdin=rules)
    yield  # the rules go with the namespace


NFT = Contender(
    "nft",
    "nftables",
    "`socket cgroupv2 … limit rate over … drop`, in an input or output chain, its burst as it is by default; limits a "
    "cgroup, into which the program has to be put before it opens its sockets.",
    debian("nftables", "nft"),
    _limit,
    packages=("nftables",),
)
