"""What cleans up after a doctor that is killed in the middle of a trial, and after that one's killer, too.

A link goes with its last descriptor, and so with its doctor. A legacy attachment and a cgroup stay. So the doctor
forks a guard before it makes either, and tells it of each before it is made:

    doctor ── "attach PATH HOOK ID", "cgroup PATH" ──> guard, in a session of its own
      (killed) ─────────────────── end of the pipe ──> detaches and removes what it was told of
      "done" ────────────────────────────────────────> ends

If the guard is killed as well, what is left drops nobody's packets (ebpf/trial.bpf.c), and the next doctor finds it:
a cgroup by its name, which says whose it was, and an attachment by the program's name and age.
"""

import ctypes
import errno
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from chadthrottle.bpf.cgroup_legacy import LegacyCgroupLink
from chadthrottle.bpf.cgroupfs import open_cgroup
from chadthrottle.bpf.constants import AttachType
from chadthrottle.bpf.errors import AttachError, BpfError
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.query import query_cgroup
from chadthrottle.procs import read_stat

__all__ = ["HOOKS", "LIFETIME_S", "MINIMAL", "PROGRAMS", "Guard", "guarded", "own_name", "remove_cgroup", "sweep"]

HOOKS = (AttachType.BPF_CGROUP_INET_EGRESS, AttachType.BPF_CGROUP_INET_INGRESS)
PROGRAMS = {"chad_trial_out": HOOKS[0], "chad_trial_in": HOOKS[1]}
"""Our own trial programs, and where they are attached."""
MINIMAL = "chad_trial_pass"
"""The two-instruction one."""
LIFETIME_S = 10
"""So long after it was loaded a trial program lets all packets pass."""

_PREFIX = "chadthrottle-doctor-"
_PR_SET_NAME = 15  # include/uapi/linux/prctl.h
_NAME = b"ct-guard"  # as the guard of --foreground
_REMOVAL_S = 2.0
_PAUSE_S = 0.002


def own_name() -> str:
    """What this doctor's cgroups are called: a later one can tell whether it still lives."""
    stat = read_stat(os.getpid())
    assert stat is not None, "we live"
    return f"{_PREFIX}{stat.identity.pid}-{stat.identity.start_ticks}"


class Guard:
    """The doctor's end of the pipe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def will_attach(self, path: Path, hook: AttachType, program_id: int) -> None:
        """A legacy attachment, about to be made."""
        self._tell(f"attach {hook.value} {program_id} {path}")

    def will_make(self, path: Path) -> None:
        """A cgroup, about to be made."""
        self._tell(f"cgroup {path}")

    def _tell(self, line: str) -> None:
        with suppress(BrokenPipeError):  # somebody killed the guard; the next doctor sweeps, if need be
            os.write(self._fd, f"{line}\0".encode(errors="surrogateescape"))


@contextmanager
def guarded() -> Iterator[Guard]:
    """A guard, as long as the block lasts. Whatever it was told of is gone when the block is left."""
    waiting, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _be_guard(waiting)
    os.close(waiting)
    try:
        yield Guard(ours)
    finally:
        with suppress(BrokenPipeError):
            os.write(ours, b"done\0")
        os.close(ours)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def remove_cgroup(path: Path) -> None:
    """Gone afterwards. One whose last process has just been killed is busy for a moment. Raises OSError."""
    until = time.monotonic() + _REMOVAL_S
    while True:
        try:
            path.rmdir()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > until:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def sweep(root: Path, places: Iterable[Path]) -> list[str]:
    """Remove what doctors left that were killed with their guards; what it was, in words.

    `places` are cgroups where they may have attached something. Raises BpfError, OSError.
    """
    found = []
    for directory in {root, *places}:
        for path in directory.glob(f"{_PREFIX}*"):
            if _is_orphan(path):
                remove_cgroup(path)
                found.append(f"the cgroup {path}")
        with open_cgroup(directory) as opened:
            programs = [(hook, each) for hook in HOOKS for each in query_cgroup(opened.fd, hook).programs]
        for hook, each in programs:
            if each.name in (MINIMAL, *PROGRAMS) and _has_expired(each.id) and _detach(directory, hook, each.id):
                found.append(f"program {each} on {directory}")
    return found


def _is_orphan(path: Path) -> bool:
    pid, _, ticks = path.name.removeprefix(_PREFIX).partition("-")
    if not (pid.isdigit() and ticks.isdigit()):
        return False
    stat = read_stat(int(pid))
    return stat is None or stat.identity.start_ticks != int(ticks)


def _has_expired(program_id: int) -> bool:
    """Another doctor may be at it this very moment."""
    try:
        with Program.by_id(program_id) as program:
            age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - program.info().load_time_ns
    except BpfError:
        return False
    return age_ns > LIFETIME_S * 1_000_000_000


def _detach(path: Path, hook: AttachType, program_id: int) -> bool:
    """Whether it was attached there without a link."""
    try:
        with Program.by_id(program_id) as program:
            LegacyCgroupLink.adopt(program, path, hook).close()  # not pinned: that detaches
    except BpfError as error:
        if error.errno == errno.ENOENT or (isinstance(error, AttachError) and not path.exists()):
            return False
        raise
    return True


def _be_guard(waiting: int) -> NoReturn:
    status = 1
    try:
        os.setsid()
        for number in signal.SIGHUP, signal.SIGINT, signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(_PR_SET_NAME, _NAME)
        os.chdir("/")
        # Whoever reads the doctor's output waits for its end, not for ours; nor do we keep anything of it open.
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in 0, 1, 2:
            os.dup2(nothing, fd)
        os.dup2(waiting, 3)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        _clean_up(_told(3))
        status = 0
    finally:
        os._exit(status)


def _told(fd: int) -> list[str]:
    text = b""
    while chunk := os.read(fd, 1 << 16):
        text += chunk
    return text.decode(errors="surrogateescape").split("\0")[:-1]


def _clean_up(told: list[str]) -> None:
    if "done" in told:
        return
    for line in told:
        kind, _, rest = line.partition(" ")
        with suppress(OSError, BpfError):
            if kind == "attach":
                hook, program_id, path = rest.split(" ", 2)
                _detach(Path(path), AttachType(int(hook)), int(program_id))
            else:
                remove_cgroup(Path(rest))
