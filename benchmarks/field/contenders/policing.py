"""Plain policing, as the customer's earlier tool did it: bpf/bucket.bpf.c on the program's cgroup."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.accuracy.cells import Cell
from benchmarks.field.contenders.contender import Contender
from benchmarks.field.place import Place, built
from chadthrottle.bpf.cgroup_link import attach_cgroup
from chadthrottle.bpf.loader import load
from chadthrottle.bpf.parse import open_object

__all__ = ["POLICING"]


def _version() -> str:
    return "bpf/bucket.bpf.c"


@contextmanager
def _limit(place: Place, cell: Cell, _: int) -> Iterator[None]:
    spec = open_object(built("bucket")).with_constants({"rate_bytes_per_s": cell.rate})
    name = f"police_{cell.direction}"
    with load(spec, programs=[name]) as loaded, attach_cgroup(loaded.programs[name], place.limited):
        yield


POLICING = Contender(
    "policing",
    "plain policing",
    "A token bucket of two seconds on the program's cgroup, dropping what exceeds it: what a first version does.",
    _version,
    _limit,
)
