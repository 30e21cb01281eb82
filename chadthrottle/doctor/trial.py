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
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from chadthrottle.abi import TRIAL_DROPPED_BYTES, TrialDirection, TrialSocket
from chadthrottle.bpf.cgroup_link import attach_cgroup
from chadthrottle.bpf.cgroupfs import open_cgroup
from chadthrottle.bpf.constants import AttachType, ProgType
from chadthrottle.bpf.errors import AttachError, BpfError, NotSupportedError, errno_name
from chadthrottle.bpf.links import Link
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.query import program_ids
from chadthrottle.bpf.syscall import failure
from chadthrottle.bpf.trials import Attempt, returns
from chadthrottle.doctor.trial_guard import HOOKS, LIFETIME_S, MINIMAL, PROGRAMS, guarded, own_name, remove_cgroup
from chadthrottle.errors import ChadthrottleError

if TYPE_CHECKING:
    from chadthrottle.bpf.loader import LoadedObject
    from chadthrottle.enforce.private_network import Inhabitant

__all__ = ["Bench", "Method", "NoNetworkError", "StepError", "bench", "load_minimal", "trial_knobs"]

Method = Literal["link", "legacy"]

_MARK = 0x63_74_64_72  # "ctdr": SO_MARK of our sockets
_NEAR, _FAR = "198.51.100.1", "198.51.100.2"  # TEST-NET-2 (RFC 5737), seen by nobody else
_BEFORE, _AFTER = 100, 101
"""Bytes of the packets that have to arrive."""
_SPARE_S = 4.0
"""A trial begins with so much time left before its programs let everything pass."""
_NS_PER_S = 1_000_000_000


class NoNetworkError(ChadthrottleError):
    """No private network can be made here: nothing can be said of packets."""


class StepError(ChadthrottleError):
    """A step of a trial went otherwise than it should."""

    def __init__(self, step: str, came_back: str, means: str, *, number: int = 0, hint: str | None = None) -> None:
        super().__init__(f"{step}: {came_back}: {means}", hint=hint)
        self.step = step
        self.came_back = came_back
        self.means = means
        self.number = number


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
                here, cookie = near.ask("open", _NEAR, _MARK)
                there, _ = far.ask("open", _FAR, _MARK)
                key = cookie.to_bytes(8, "little")
                ours.maps["sockets"].update(key, bytes(TrialSocket()))
                with ExitStack() as attached:
                    told = [
                        attached.enter_context(self._attached(ours.programs[name], place, hook, method))
                        for name, hook in PROGRAMS.items()
                    ]
                    kept_back = _talk(near, far, (here, there))
                    told += kept_back + _counted(ours.maps["sockets"].lookup(key))
                if not kept_back:
                    _require_free(near, far, (here, there))
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
        step = "link_create(flags 0)" if method == "link" else "prog_attach(BPF_F_ALLOW_MULTI)"
        with _step(step):
            link = attach_cgroup(program, place, hook, method)  # reads back: link info and the cgroup's list
        try:
            info = link.info()
            yield f"{step} on {place}: {hook.name}, program {program.name} (id {program_id}), {_described(info.id)}"
        except BaseException:
            link.close()
            raise
        _detach(link, program_id, place, hook, method)

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
                made = private_network(Talker, (f"{_NEAR}/24",), (f"{_FAR}/24",))
                self._ends = self._stack.enter_context(made)
            except ChadthrottleError as error:
                raise NoNetworkError(error.message, hint=error.hint) from error
            if self.leaf is not None and self.leaf.exists():
                _move(self._ends[0], self.leaf)
        return self._ends

    @contextmanager
    def _housed(self, near: "Inhabitant", place: Path) -> Iterator[None]:
        """`near` is where the place's programs see the sockets it makes."""
        if place in (self.root, self.leaf):  # it is in leaf, or wherever doctor was started, and so below the root
            yield
            return
        # Wherever doctor was started is not known to be below the root that is shown here, so there is a leaf then.
        home = self.leaf or self.root
        with ExitStack() as stack:
            try:
                inside = stack.enter_context(self._cgroup_in(place))
                stack.callback(_move_back, near, home)
                _move(near, inside)
            except StepError as error:
                if error.number not in (errno.EOPNOTSUPP, errno.EBUSY, errno.EAGAIN):
                    raise
                # A threaded cgroup, or one that may have none below it: among the target's own, then.
                _move(near, place)
            yield

    @contextmanager
    def _cgroup_in(self, parent: Path) -> Iterator[Path]:
        path = parent / own_name()
        self._guard.will_make(path)
        try:
            path.mkdir()
        except OSError as error:
            raise _cgroup_error(f"mkdir {path}", error) from error
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
    return {"mark": _MARK, "deadline_ns": deadline_ns}


def load_minimal(hook: AttachType, result: int = 1, declared: AttachType | None = None) -> Program:
    """r0 = `result`; exit, loaded for `declared`, or for `hook`. Raises BpfError."""
    kind = ProgType.BPF_PROG_TYPE_CGROUP_SKB
    declared = hook if declared is None else declared
    fd, number, log = Attempt(kind, returns(result), declared, name=MINIMAL.encode()).load()
    if number:
        lines = [line for line in log.splitlines() if line and not line.startswith("processed ")]
        raise failure("BPF_PROG_LOAD", number, f"of {MINIMAL}", lines[-1] if lines else None)
    return Program(fd, MINIMAL, kind, declared)


@contextmanager
def _step(name: str) -> Iterator[None]:
    """A refusal says at which step it came."""
    try:
        yield
    except AttachError as error:
        # The message has it behind "… on PATH: EPERM: ".
        why = error.message.partition(f"{errno_name(error.errno)}: ")[2] or error.message
        raised = StepError(name, errno_name(error.errno), why, number=error.errno, hint=error.hint)
        raised.exit_code = error.exit_code
        raise raised from error
    except NotSupportedError as error:
        raise StepError(name, "EINVAL", error.message, hint=error.hint) from error


def _detach(link: Link, program_id: int, place: Path, hook: AttachType, method: Method) -> None:
    step = "link_detach" if method == "link" else "prog_detach"
    with _step(step):
        link.detach() if method == "link" else link.close()
    try:
        with open_cgroup(place) as directory:
            left = program_id in program_ids(directory.fd, hook)
    except BpfError as error:
        raise StepError(step, errno_name(error.errno), f"{place} was removed", number=error.errno) from error
    if left:
        raise StepError(step, "success", f"program {program_id} is in the list of {hook.name} all the same")


def _talk(near: "Inhabitant", far: "Inhabitant", ports: tuple[int, int]) -> list[str]:
    """Both ways: one that passes, one to be dropped, one that passes. Who else keeps packets back, if somebody does."""
    told = []
    sizes = [_BEFORE, TRIAL_DROPPED_BYTES, _AFTER]
    for direction, sender, receiver, address, port in _ways(near, far, ports):
        errors = sender.ask("send", address, port, sizes)
        heard = receiver.ask("hear", 2) if len(errors) < len(sizes) - 1 else []
        if TRIAL_DROPPED_BYTES in heard:
            raise StepError(
                f"drop on {direction}", "the packet arrived", "the kernel did not do as the attached program answered"
            )
        if heard != [_BEFORE, _AFTER]:
            also = f" ({', '.join(errors)} when sending)" if errors else ""
            told.append(f"{direction}: something else than the trial's program keeps packets back{also}")
    return told


def _counted(value: bytes | None) -> list[str]:
    """What the programs counted. Raises StepError: they did not see the packets."""
    count = TrialSocket.from_buffer_copy(value or bytes(TrialSocket()))
    told = []
    for direction in TrialDirection:
        packets, dropped = count.packets[direction], count.dropped[direction]
        name = direction.name.lower()
        if not packets:
            raise StepError(
                f"count on {name}",
                "0 packets",
                "the program is attached, and the kernel does not run it for a socket in this cgroup",
            )
        if not dropped:
            raise StepError(f"drop on {name}", f"{packets} packets, none dropped", "the program was not obeyed")
        told.append(f"{name}: {packets} packets counted, {dropped} dropped")
    return told


def _require_free(near: "Inhabitant", far: "Inhabitant", ports: tuple[int, int]) -> None:
    """Detached, a program drops nothing."""
    for direction, sender, receiver, address, port in _ways(near, far, ports):
        sender.order("send", address, port, [TRIAL_DROPPED_BYTES, _AFTER])
        sender.answer()
        if receiver.ask("hear", 1) == [_AFTER]:
            raise StepError(f"detach on {direction}", "the packet is dropped still", "the program runs on")


def _ways(
    near: "Inhabitant", far: "Inhabitant", ports: tuple[int, int]
) -> Iterator[tuple[str, "Inhabitant", "Inhabitant", str, int]]:
    here, there = ports
    yield "egress", near, far, _FAR, there
    yield "ingress", far, near, _NEAR, here


def _move(inhabitant: "Inhabitant", path: Path) -> None:
    """Raises StepError."""
    try:
        (path / "cgroup.procs").write_text(str(inhabitant.pid), encoding="ascii")
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP and _move_threaded(inhabitant, path):
            return
        raise _cgroup_error(f"moving a process of ours to {path}", error) from error


def _move_back(inhabitant: "Inhabitant", path: Path) -> None:
    with suppress(StepError):  # it was killed, with the cgroup it was in
        _move(inhabitant, path)


def _move_threaded(inhabitant: "Inhabitant", path: Path) -> bool:
    """A threaded cgroup takes threads whose process is in the domain above it (cgroup-v2.rst, "Threads")."""
    with suppress(OSError):
        domain = next(each for each in path.parents if _type(each) in ("domain threaded", "domain"))
        (domain / "cgroup.procs").write_text(str(inhabitant.pid), encoding="ascii")
        (path / "cgroup.threads").write_text(str(inhabitant.pid), encoding="ascii")
        return True
    return False


def _type(path: Path) -> str:
    file = path / "cgroup.type"
    return file.read_text(encoding="ascii").strip() if file.exists() else "domain"  # the root has none


def _cgroup_error(step: str, error: OSError) -> StepError:
    number = error.errno or errno.EIO
    means = {
        errno.ENOENT: "the cgroup has been removed",
        errno.ENODEV: "the cgroup has been removed",
        errno.EACCES: "this user may not change that part of the cgroup tree: it is not delegated to it",
        errno.EPERM: "this user may not change that part of the cgroup tree: it is not delegated to it",
        errno.EROFS: "cgroup2 is mounted read-only",
        errno.EAGAIN: "cgroup.max.descendants, cgroup.max.depth or pids.max allow no more",
    }.get(number, error.strerror or "")
    return StepError(step, errno_name(number), means, number=number)


def _described(link_id: int) -> str:
    return f"link {link_id}" if link_id else "no link"
