"""Where a limiter is measured: two namespaces, two leaf cgroups and a bpffs, all of our own and gone afterwards."""

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.cells import Cell
from benchmarks.wan import wan
from tests.support.bpffs import mount_bpffs, unmount_bpffs
from tests.support.cgroups import cgroup2_root, make_cgroup, remove_cgroup
from tests.support.network import Endpoint, veth_pair
from tools import build_ebpf

__all__ = ["BUILD", "Place", "Unavailable", "built", "line_bytes_per_s", "place", "run"]

BUILD = build_ebpf.ROOT / "build" / "field"
LINE_TO_LIMIT = 10
MOST_OF_A_LINE = 3_000_000_000 // 8
"""The relay carries more, but not much more."""
LEAST_QUEUE_BYTES = 4 << 16
"""Some GSO buffers, which enter it whole."""
SOURCES = Path(__file__).with_name("bpf")


class Unavailable(Exception):  # noqa: N818 # no error: a limiter that cannot be had here, or cannot do this
    """Why there is no measurement, for the table."""


@dataclass(frozen=True, slots=True)
class Place:
    """Of one measurement."""

    near: Endpoint
    """Where the limited program is, and every limiter."""
    far: Endpoint
    limited: Path
    """The limited program's cgroup."""
    others: Path
    """That of its peer, of the relay, and of what a limiter keeps running."""
    bpffs: Path
    scratch: Path


@contextmanager
def place(cell: Cell) -> Iterator[Place]:
    """Made, and all taken away again, with whatever still runs in the cgroups."""
    root = cgroup2_root()
    if root is None:
        raise Unavailable("needs cgroup2, and none is mounted")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ct-field-")))
        bpffs = scratch / "bpffs"
        bpffs.mkdir()
        mount_bpffs(bpffs)
        stack.callback(unmount_bpffs, bpffs)
        limited, others = make_cgroup(root), make_cgroup(root)
        for cgroup in limited, others:
            stack.callback(remove_cgroup, cgroup)
        near, far = stack.enter_context(_network(cell, others))
        yield Place(near, far, limited, others, bpffs, scratch)


def line_bytes_per_s(cell: Cell) -> int:
    """What the WAN carries each way, with a queue of one round trip; 0: no bottleneck, as on a veth.

    A limit is set on a line of some speed. Without one, what is on its way when the limit begins is 20 MB: a limiter
    that drops would lose that, and at 10 Mbit/s nothing else would be seen than its being sent again.
    """
    line = LINE_TO_LIMIT * cell.rate
    return line if cell.rtt_ms and line <= MOST_OF_A_LINE else 0


@contextmanager
def _network(cell: Cell, others: Path) -> Iterator[tuple[Endpoint, Endpoint]]:
    """As accuracy/ends.py's, but the relay is in the cgroup: packets are received on its time."""
    if not cell.rtt_ms:
        with veth_pair() as pair:
            yield pair
        return
    line = line_bytes_per_s(cell)
    queue_bytes = max(LEAST_QUEUE_BYTES, line * cell.rtt_ms // 1000)
    with wan(cell.rtt_ms / 2000, line, queue_bytes) as between:
        (others / "cgroup.procs").write_text(str(between.pid), encoding="ascii")
        yield between.near, between.far


def built(name: str) -> Path:
    """The object of bpf/NAME.bpf.c, up to date. Raises BuildError."""
    objects = build_ebpf.build(SOURCES, [build_ebpf.EBPF], BUILD, "debug")
    return next(each.path for each in objects if each.path.name == f"{name}.bpf.o")


def run(endpoint: Endpoint, *words: str, stdin: str = "") -> str:
    """Run a command in a namespace; what it printed. Raises Unavailable with its complaint."""
    return _run(endpoint.command(*words), words, stdin)


def _run(command: Sequence[str], words: Sequence[str], stdin: str) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        complaint = next((line.strip() for line in done.stderr.splitlines() if line.strip()), "no word why")
        raise Unavailable(f"`{' '.join(words[:4])} …` failed: {complaint}")
    return done.stdout
