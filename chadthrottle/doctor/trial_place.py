"""Where trials are made: one bench for all of them, made by the first that needs it."""

from pathlib import Path
from typing import NamedTuple

from chadthrottle import cgroup
from chadthrottle.doctor.check import Context
from chadthrottle.doctor.consequences import ATTACHING
from chadthrottle.doctor.finding import Need
from chadthrottle.doctor.trial import Bench, bench

__all__ = ["Place", "bench_of", "first_place", "own", "place"]

_BENCH = "attach.bench"
_NOBODY = (
    "No other program is in the way. A security module, seccomp, lockdown, or a kernel without CONFIG_CGROUP_BPF is.",
    "What the kernel says of it:",
    "  sudo dmesg | grep -iE 'bpf|cgroup|lockdown|audit'",
)


class Place(NamedTuple):
    """Somewhere to attach to."""

    what: str
    path: Path
    blocks: frozenset[Need]
    """What nobody has if nothing can be attached there."""
    cure: tuple[str, ...]


def bench_of(context: Context) -> Bench:
    """What all trials share. Raises StepError: no cgroup can be made."""
    if _BENCH not in context.shared:
        context.shared[_BENCH] = context.stack.enter_context(bench(cgroup.root(), with_leaf=not context.only_root))
    made: Bench = context.shared[_BENCH]
    return made


def first_place(context: Context) -> Path:
    """Where something harmless is attached to: our own cgroup, or the root if that is all that is wanted."""
    made = bench_of(context)
    return made.leaf or made.root


def own(path: Path) -> Place:
    """Our own cgroup."""
    return Place("a cgroup of our own", path, ATTACHING, _NOBODY)


def place(context: Context, path: Path) -> Place:
    """The root, or the target's cgroup."""
    if path == cgroup.root():
        return Place("the root cgroup", path, frozenset({Need.ROOT_CGROUP}), _NOBODY)
    cure = (
        "A limit is attached to the root unless --at says otherwise, and does not need this: leave out --at.",
        f"sudo chadthrottle throttle {context.pid} RATE",
    )
    return Place(f"the target's cgroup {path}", path, frozenset({Need.TARGET_CGROUP}), cure)
