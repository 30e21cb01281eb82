"""chadthrottle itself, an engine a row; an engine that `throttle` refuses is left out with its words."""

import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from benchmarks.accuracy.cells import Cell
from benchmarks.field.contenders.contender import Contender
from benchmarks.field.place import Place, Unavailable
from chadthrottle import __version__
from chadthrottle.errors import ChadthrottleError
from chadthrottle.model import AttachPoint, Direction, Engine, ProcessIdentity, RuleSpec
from tools.build_ebpf import ROOT

__all__ = ["OURS", "engine"]


def engine(which: Engine) -> Contender:
    """The contender of one engine."""

    def limit(place: Place, cell: Cell, pid: int) -> AbstractContextManager[None]:
        return _limit(which, place, cell, pid)

    about = f"`chadthrottle throttle PID RATE --engine {which}`, on the running program."
    return Contender(which.value, f"chadthrottle, {which}", about, _version, limit)


@contextmanager
def _limit(which: Engine, place: Place, cell: Cell, pid: int) -> Iterator[None]:
    # Here, so that whatever is wrong with it stands in its own rows.
    from chadthrottle.limits import release, throttle
    from chadthrottle.procs import read_stat

    stat = read_stat(pid)
    if stat is None:
        raise Unavailable("the program has ended")
    up = cell.direction is Direction.UP
    spec = RuleSpec(
        process=ProcessIdentity(pid, stat.start_ticks, stat.name),
        at=AttachPoint(str(place.limited)),
        engine=which,
        rate_up_bytes_per_s=cell.rate if up else None,
        rate_down_bytes_per_s=None if up else cell.rate,
    )
    pins = place.bpffs / "pins"
    try:
        # As from a shell beside the program.
        with place.near.entered():
            state = throttle(spec, pins).state.direction(cell.direction)
    except ChadthrottleError as error:
        raise Unavailable(error.message) from error
    try:
        if state is None or (which is not Engine.AUTO and state.engine is not which):
            raise Unavailable(f"`throttle` took another engine: {state and state.engine}")
        yield
    finally:
        with place.near.entered():
            release(None, base=pins)


def _version() -> str:
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return f"{__version__}, commit {commit}" if commit else __version__


OURS = (engine(Engine.CGROUP), engine(Engine.QUEUE))
