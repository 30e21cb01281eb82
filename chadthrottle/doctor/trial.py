"""Attaching for real: a minimal program and our own, to a cgroup, each as a limit would be attached, and off again.

    root ─┬─ chadthrottle-doctor-PID-…            `leaf`: a cgroup of our own, where `near` lives
          └─ … the target's cgroup
                └─ chadthrottle-doctor-PID-…      where near lives while the target's cgroup is tried

    near ══ far     two processes in a private network; their packets are the only ones that are ever dropped
                    (ebpf/trial.bpf.c), and only those of one size

One set of them serves all trials. A guard (trial_guard.py) cleans up if this process is killed.
"""

import errno
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from chadthrottle.bpf.cgroup_link import attach_cgroup
from chadthrottle.bpf.constants import AttachType, ProgType
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.syscall import failure
from chadthrottle.bpf.trials import Attempt, returns
from chadthrottle.doctor.trial_abi import TrialSocket
from chadthrottle.doctor.trial_guard import HOOKS, LIFETIME_S, MINIMAL, PROGRAMS, guarded, own_name, remove_cgroup
from chadthrottle.doctor.trial_moves import cgroup_error, move, move_back
from chadthrottle.doctor.trial_steps import (
    FAR,
    NEAR,
    Method,
    NoNetworkError,
    StepError,
    counted,
    described,
    detach,
    require_free,
    step,
    talk,
)
from chadthrottle.errors import ChadthrottleError

if TYPE_CHECKING:
    from chadthrottle.bpf.loader import LoadedObject
    from chadthrottle.enforce.private_network import Inhabitant

__all__ = ["MARK", "Bench", "bench", "load_minimal", "trial_knobs"]

MARK = 0x63_74_64_72  # "ctdr": SOMARK of our sockets
_SPARE_S = 4.0
"""A trial begins with so much time left before its programs let everything pass."""
_NS_PER_S = 1_000_000_000


class Bench:
    """What trials share; made by `bench`."""

    def __init__(self, stack: ExitStack, root: Path, *, with_leaf: bool) -> None:
        self._stack = stack
        self._guard = stack.enter_context(guarded())
        self.root = root
        self.leaf: Path | None = self._stack.enter_context(self._cgroup_in(root)) if with_leaf else None
        """None: not wanted."""
        self._minimal: dict[AttachType, Program] = {}
        self._ours: LoadedObject | None = None
        self._expires_ns = 0
        self._ends: tuple[Inhabitant, Inhabitant] | None = None

    def minimal(self, hook: AttachType) -> Program:
        """Two instructions, r0 = 1; exit. Raises BpfError."""
        if hook not in self._minimal:
            self._minimal[hook] = self._stack.enter_context(load_minimal(hook))
        return self._minimal[hook]

    def try_minimal(self, place: Path, method: Method) -> list[str]:
        """Attach it, read back, detach, see it gone. What was read. Raises StepError, BpfError."""
        told = []
        for hook in HOOKS:
            with self._attached(self.minimal(hook), place, hook, method) as read:
                told.append(read)
        return told

    def try_ours(self, place: Path, method: Method) -> list[str]:
        """The same with our own programs, which count a packet and drop another. What was found.

        Raises StepError, BpfError, NoNetworkError.
        """
        near, far = self._network()
        ours = self._loaded()
        with self._housed(near, place):
            try:
                here, cookie = near.ask("open", NEAR, MARK)
                there, _ = far.ask("open", FAR, MARK)
                key = cookie.to_bytes(8, "little")
                ours.maps["sockets"].update(key, bytes(TrialSocket()))
                with ExitStack() as attached:
                    told = [
                        attached.enter_context(self._attached(ours.programs[name], place, hook, method))
                        for name, hook in PROGRAMS.items()
                    ]
                    kept_back = talk(near, far, (here, there))
                    told += kept_back + counted(ours.maps["sockets"].lookup(key))
                if not kept_back:
                    require_free(near, far, (here, there))
                near.ask("close")
                far.ask("close")
            except BaseException:
                self._ends = None  # killed, or with a socket left open: the next trial makes others
                raise
            return told

    @contextmanager
    def _attached(self, program: Program, place: Path, hook: AttachType, method: Method) -> Iterator[str]:
        """What the kernel says of the attachment, which is gone afterwards."""
        program_id = program.info().id
        if method == "legacy":
            self._guard.will_attach(place, hook, program_id)
        name = "link_create(flags 0)" if method == "link" else "prog_attach(BPF_F_ALLOW_MULTI)"
        with step(name):
            link = attach_cgroup(program, place, hook, method)  # reads back: link info and the cgroup's list
        try:
            info = link.info()
            yield f"{name} on {place}: {hook.name}, program {program.name} (id {program_id}), {described(info.id)}"
        except BaseException:
            link.close()
            raise
        detach(link, program_id, place, hook, method)

    def _loaded(self) -> "LoadedObject":
        """Our programs, with time enough left for a trial."""
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if self._ours is None or self._expires_ns - now_ns < _SPARE_S * _NS_PER_S:
            from chadthrottle.artifacts import object_path
            from chadthrottle.bpf.loader import load
            from chadthrottle.bpf.parse import open_object

            self._expires_ns = now_ns + LIFETIME_S * _NS_PER_S
            spec = open_object(object_path("trial"))
            knobs = trial_knobs(self._expires_ns)
            self._ours = self._stack.enter_context(load(spec.with_constants(knobs)))
        return self._ours

    def _network(self) -> tuple["Inhabitant", "Inhabitant"]:
        # Forked before anything is attached: a child that holds a link's descriptor keeps it attached.
        if self._ends is None:
            from chadthrottle.doctor.trial_end import Talker
            from chadthrottle.enforce.private_network import private_network

            try:
                made = private_network(Talker, (f"{NEAR}/24",), (f"{FAR}/24",))
                self._ends = self._stack.enter_context(made)
            except ChadthrottleError as error:
                raise NoNetworkError(error.message, hint=error.hint) from error
            if self.leaf is not None and self.leaf.exists():
                move(self._ends[0], self.leaf)
        return self._ends

    @contextmanager
    def _housed(self, near: "Inhabitant", place: Path) -> Iterator[None]:
        """`near` is where the place's programs see the sockets it makes."""
        if place in (self.root, self.leaf):  # it is in leaf, or wherever doctor was started: below the root
            yield
            return
        assert self.leaf is not None, "other places are tried after it"
        with ExitStack() as stack:
            try:
                inside = stack.enter_context(self._cgroup_in(place))
                stack.callback(move_back, near, self.leaf)
                move(near, inside)
            except StepError as error:
                if error.number not in (errno.EOPNOTSUPP, errno.EBUSY, errno.EAGAIN):
                    raise
                # A threaded cgroup, or one that may have none below it: among the target's own, then.
                stack.callback(move_back, near, self.leaf)
                move(near, place)
            yield

    @contextmanager
    def _cgroup_in(self, parent: Path) -> Iterator[Path]:
        path = parent / own_name()
        self._guard.will_make(path)
        try:
            path.mkdir()
        except OSError as error:
            raise cgroup_error(f"mkdir {path}", error) from error
        try:
            yield path
        finally:
            remove_cgroup(path)


@contextmanager
def bench(root: Path, *, with_leaf: bool) -> Iterator[Bench]:
    """Everything made for trials is gone afterwards. Raises StepError: no cgroup can be made."""
    with ExitStack() as stack:
        yield Bench(stack, root, with_leaf=with_leaf)


def trial_knobs(deadline_ns: int) -> dict[str, int]:
    """The constants of trial.bpf.o. The deadline is CLOCK_BOOTTIME's."""
    return {"mark": MARK, "deadline_ns": deadline_ns}


def load_minimal(hook: AttachType, result: int = 1, declared: AttachType | None = None) -> Program:
    """r0 = `result`; exit, loaded for `declared`, or for `hook`. Raises BpfError."""
    kind = ProgType.BPF_PROG_TYPE_CGROUP_SKB
    declared = hook if declared is None else declared
    fd, number, log = Attempt(kind, returns(result), declared, name=MINIMAL.encode()).load()
    if number:
        lines = [line for line in log.splitlines() if line and not line.startswith("processed ")]
        raise failure("BPF_PROG_LOAD", number, f"of {MINIMAL}", lines[-1] if lines else None)
    return Program(fd, MINIMAL, kind, declared)
