"""/proc/PID/stat: who a process is, whether it lives, what it begot."""

import os
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from chadthrottle.errors import KernelCannotError, NotPermittedError

__all__ = [
    "TICK_NS",
    "Identity",
    "Stat",
    "ancestors",
    "descendants",
    "is_alive",
    "parse_stat",
    "printable",
    "read_stat",
    "started_at",
]

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""Nanoseconds in a clock tick of /proc: 10 000 000, as USER_HZ is 100 on every machine we build for."""

# include/linux/sched.h: "I am a kernel thread".
PF_KTHREAD = 0x0020_0000

# Each pass reads only what is new since the last, so a third pass is rare and an eighth means a fork
# bomb. What it forks then is found by the kernel's own fork hook, not by a longer loop.
MAX_PASSES = 8


class Identity(NamedTuple):
    """One process and no later one of the same number.

    `start_ticks` is field 22 of /proc/PID/stat. do_task_stat() of fs/proc/array.c computes it as
    nsec_to_clock_t(start_boottime + the reader's time namespace's offset), and nsec_to_clock_t()
    divides and rounds down. In the initial time namespace (`require_initial_namespaces`) the offset
    is 0, so in BPF, exactly:

        task->group_leader->start_boottime / TICK_NS == start_ticks

    (`real_start_time` before Linux 5.5.) 10 ms is all the precision there is, and enough: PIDs are
    handed out in turn, so a number comes back only after all others. exec() changes neither half, also
    when another thread than the leader calls it (de_thread() of fs/exec.c hands both over).
    """

    pid: int
    start_ticks: int

    @property
    def start_boottime_ns(self) -> int:
        """The kernel's start_boottime lies in [this, this + TICK_NS)."""
        return self.start_ticks * TICK_NS

    def __str__(self) -> str:
        return f"PID {self.pid} (started at tick {self.start_ticks})"


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that matter here; see proc_pid_stat(5)."""

    pid: int
    name: str
    """comm: at most 15 bytes, chosen by the process; anything unprintable is a question mark."""
    state: str
    ppid: int
    """The process (not thread) whose child it is; 0 for PID 1, kthreadd, and a parent outside this namespace."""
    flags: int
    threads: int
    start_ticks: int

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start_ticks)

    @property
    def is_kernel_thread(self) -> bool:
        return bool(self.flags & PF_KTHREAD)

    @property
    def is_dead(self) -> bool:
        """A zombie, or about to vanish.

        A main thread that exited is a zombie too while other threads live on with the sockets; it still
        counts itself, so a dead process has one thread and such a one has more.
        """
        return self.state in "ZXx" and self.threads <= 1


def read_stat(pid: int) -> Stat | None:
    """The process `pid` now, or None if there is none. A thread id is answered with the thread.

    Raises NotPermittedError where /proc is mounted with hidepid, KernelCannotError without /proc.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return parse_stat(file.read())
    except (FileNotFoundError, ProcessLookupError):  # the second: it died between open and read
        if not os.path.exists("/proc/self/stat"):  # noqa: PTH110 # one call on a rare path needs no pathlib
            raise _no_proc() from None
        return None
    except PermissionError as error:
        raise NotPermittedError(
            f"process {pid} is hidden from this user: /proc is mounted with hidepid", hint="Run it with sudo."
        ) from error


def parse_stat(line: bytes) -> Stat:
    """A line of /proc/PID/stat. The name in its parentheses may itself hold blanks and parentheses."""
    head, _, tail = line.rpartition(b")")
    pid, _, name = head.partition(b"(")
    # tail[0] is field 3 of proc_pid_stat(5)
    fields = tail.split()
    return Stat(
        pid=int(pid),
        name=printable(name.decode(errors="replace")),
        state=fields[0].decode(),
        ppid=int(fields[1]),
        flags=int(fields[6]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
    )


def printable(text: str) -> str:
    """Text of somebody else's choosing, safe for a terminal and for a line to copy into a shell."""
    return "".join(c if c.isprintable() else "?" for c in text)


def is_alive(identity: Identity) -> bool:
    """Whether exactly this process lives: not a zombie, not another of the same number."""
    stat = read_stat(identity.pid)
    return stat is not None and stat.start_ticks == identity.start_ticks and not stat.is_dead


def started_at(identity: Identity) -> float:
    """When it started, in seconds since the epoch by today's clock; good to a tick."""
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot + identity.start_ticks * TICK_NS / 1e9


def ancestors() -> Iterator[Stat]:
    """The parent of this process, its parent, and so on; PID 1 is not counted."""
    pid = os.getppid()
    while pid > 1:
        stat = read_stat(pid)
        if stat is None:  # it just died; its child was adopted by somebody above
            return
        yield stat
        pid = stat.ppid


def descendants(pid: int, known: Iterable[Identity] = ()) -> set[Identity]:
    """The living processes below `pid`, without itself: children, their children, and so on.

    `known` are descendants found earlier: what hangs below them counts although they, or what linked
    them to `pid`, may have died since. No snapshot of /proc is complete while somebody forks. To be
    complete, let the kernel's fork hook watch `pid` first, enter what this returns, and call it again
    with that as `known` until nothing new comes: a fork by an entered process is the hook's.

    Reads the parent of every process, not /proc/PID/task/*/children: that file leaves out living
    children when a sibling exits during the read (get_children_proc() of fs/proc/array.c says so), is
    one file per thread and not in every kernel; 93 processes take 3 ms by parent, 14 ms by children.

    Raises as `read_stat`.
    """
    known = set(known)
    table: dict[int, Stat] = {}
    for _ in range(MAX_PASSES):
        # Low numbers are handed out again after the highest: one pass may miss what forks behind it.
        fresh = [each for each in map(read_stat, _all_pids() - table.keys()) if each is not None]
        if not fresh:
            break
        table.update((each.pid, each) for each in fresh)
    roots = {pid} | {each.pid for each in known if _is_same(table, each)}
    found = _below(table, roots, {each.pid: each.start_ticks for each in known})
    living = {each.identity for each in found if not each.is_dead}
    living.update(each for each in known if _is_same(table, each) and not table[each.pid].is_dead)
    return {each for each in living if each.pid != pid}


def _is_same(table: dict[int, Stat], identity: Identity) -> bool:
    return identity.pid in table and table[identity.pid].start_ticks == identity.start_ticks


def _below(table: dict[int, Stat], roots: set[int], started: dict[int, int]) -> list[Stat]:
    children: dict[int, list[Stat]] = {}
    for stat in table.values():
        children.setdefault(stat.ppid, []).append(stat)
    found: list[Stat] = []
    pending = list(roots)
    seen = set(roots)
    while pending:
        parent = pending.pop()
        # Whoever adopts an orphan is an ancestor or a thread beside it, so no parent is younger than its
        # child; one that seems so is a new process with the number of a dead one.
        oldest = table[parent].start_ticks if parent in table else started.get(parent, 0)
        for child in children.get(parent, ()):
            if child.pid not in seen and child.start_ticks >= oldest:
                seen.add(child.pid)
                found.append(child)
                pending.append(child.pid)
    return found


def _all_pids() -> set[int]:
    try:
        return {int(name) for name in os.listdir("/proc") if name.isdigit()}
    except FileNotFoundError as error:
        raise _no_proc() from error


def _no_proc() -> KernelCannotError:
    return KernelCannotError("/proc is not mounted here, so no process can be seen", hint="mount -t proc proc /proc")
