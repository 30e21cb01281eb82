"""The PID argument of a command: the one process it means, or the reason why not."""

import errno
import os
import re
from typing import NamedTuple

from chadthrottle.bpf.errors import NotSupportedError
from chadthrottle.errors import ChadthrottleError, NotPermittedError, UsageError
from chadthrottle.procs.errors import NoSuchProcessError, OwnSessionError, ThreadIdError, UntouchableProcessError
from chadthrottle.procs.namespaces import require_initial_namespaces
from chadthrottle.procs.stat import Identity, Stat, ancestors, is_alive, read_stat

__all__ = ["THROTTLE", "Process", "inspect", "open_pidfd", "parse_pid", "resolve"]

THROTTLE = "sudo chadthrottle throttle {pid} RATE"
"""What a hint tells the user to type."""

# PID_MAX_LIMIT of include/linux/threads.h on 64-bit: no PID is larger.
PID_MAX_LIMIT = 4 * 1024 * 1024


class Process(NamedTuple):
    """A process that may be limited."""

    identity: Identity
    """In the initial PID namespace, so its `pid` is the kernel's own number."""
    name: str
    """Its comm, printable."""
    ppid: int
    uid: int
    """The real user id."""

    @property
    def pid(self) -> int:
        return self.identity.pid


def resolve(argument: str, *, allow_ancestors: bool = False, command: str = THROTTLE) -> Process:
    """The process an argument names. `allow_ancestors` is what --duration and --force give.

    `command` is what hints tell to type, with {pid}. Raises with the contract's exit code:
    2 UsageError (no PID, a name, PID 1, a kernel thread, a thread id, an ancestor of this command);
    3 NotPermittedError (another user's, without root);
    4 NoSuchProcessError (none, gone, zombie);
    5 KernelCannotError (the numbers seen here are not the kernel's).
    """
    return inspect(parse_pid(argument, command), allow_ancestors=allow_ancestors, command=command)


def parse_pid(argument: str, command: str = THROTTLE) -> int:
    """The number alone: whether there is such a process is not asked. Raises UsageError."""
    text = argument.strip()
    if re.fullmatch(r"-[0-9]+", text) or re.fullmatch(r"0+", text):
        # kill(2) reads these as process groups; a limit has no such meaning.
        raise UsageError(f"{text} is no PID: process numbers start at 1", hint=_how_to_find())
    if re.fullmatch(r"[0-9]+", text):
        digits = text.lstrip("0")
        return int(digits) if len(digits) < 10 else PID_MAX_LIMIT + 1  # int() refuses thousands of digits
    if not text or re.fullmatch(r"[+-]?[0-9.,_]+", text):
        raise UsageError(f"“{text}” is no PID: it is a whole number, such as 1234", hint=_how_to_find())
    from chadthrottle.procs.names import name_instead_of_pid

    raise name_instead_of_pid(text, command)


def inspect(pid: int, *, allow_ancestors: bool = False, command: str = THROTTLE) -> Process:
    """As `resolve`, of a number."""
    if pid == 1:
        raise UntouchableProcessError(
            "PID 1 is the system itself: everything on this machine would be limited with it", hint=_how_to_find()
        )
    require_initial_namespaces()
    stat = read_stat(pid) if pid <= PID_MAX_LIMIT else None
    if stat is None:
        raise _not_seen(pid)
    status = _read_status(pid)
    _require_process(stat, status, command)
    _require_outside_of_own_session(stat, allow_ancestors)
    _require_permission(stat, status)
    # What status said may be another's by now; the number's owner must be the same before and after.
    if not is_alive(stat.identity):
        raise _gone(pid, stat.name)
    return Process(stat.identity, stat.name, stat.ppid, int(status["Uid"].split()[0]))


def open_pidfd(identity: Identity) -> int:
    """A descriptor of exactly this process, which no reuse of its number can redirect (pidfd_open(2)).

    The caller closes it. Raises NoSuchProcessError, NotSupportedError (Linux 5.3).
    """
    try:
        fd = os.pidfd_open(identity.pid)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise NotSupportedError("pidfd_open", "5.3") from error
        # A thread's number: EINVAL, ENOENT since 6.16.
        if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            raise _gone(identity.pid) from error
        raise
    # Opened first, compared second: if the number had been reused before, it shows now.
    if not is_alive(identity):
        os.close(fd)
        raise _gone(identity.pid)
    return fd


def _require_process(stat: Stat, status: dict[str, str], command: str) -> None:
    """It is a living process of user space."""
    pid = stat.pid
    if stat.is_kernel_thread:
        raise UntouchableProcessError(
            f"PID {pid} ({stat.name}) is a kernel thread: it belongs to no program", hint=_how_to_find()
        )
    tgid = int(status["Tgid"])
    if tgid != pid:
        owner = read_stat(tgid)
        name = stat.name if owner is None else owner.name
        raise ThreadIdError(
            f"{pid} is a thread of process {tgid} ({name}); a limit holds for whole processes",
            tgid,
            hint=command.format(pid=tgid),
        )
    if stat.is_dead:
        raise NoSuchProcessError(
            f"process {pid} ({stat.name}) is a zombie: it has ended and has no connections left, only its "
            f"parent, PID {stat.ppid}, has not taken note yet"
        )


def _require_outside_of_own_session(stat: Stat, allow_ancestors: bool) -> None:
    if stat.pid == os.getpid():
        raise UntouchableProcessError(f"PID {stat.pid} is this very command", hint=_how_to_find())
    if not allow_ancestors and any(each.pid == stat.pid for each in ancestors()):
        raise OwnSessionError(
            f"PID {stat.pid} ({stat.name}) is what this command was started from: the limit would hold for the "
            "session you are typing in, and all you start from it",
            hint="If that is meant: add --duration 60s, so that it ends by itself, or --force.",
        )


def _require_permission(stat: Stat, status: dict[str, str]) -> None:
    me = os.geteuid()
    # real, effective, saved: a set-user-id program that anna started runs for somebody else, too
    if me != 0 and any(int(uid) != me for uid in status["Uid"].split()[:3]):
        raise NotPermittedError(
            f"process {stat.pid} ({stat.name}) belongs to another user (uid {status['Uid'].split()[0]})",
            hint="Run it with sudo.",
        )


def _read_status(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}
    except (FileNotFoundError, ProcessLookupError) as error:
        raise _gone(pid) from error


def _not_seen(pid: int) -> ChadthrottleError:
    """/proc has no such number: none there, or hidden from us (hidepid=2 shows nothing at all)."""
    if os.geteuid() != 0 and pid <= PID_MAX_LIMIT:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            pass
        except PermissionError:
            return NotPermittedError(f"process {pid} belongs to another user", hint="Run it with sudo.")
    return _gone(pid)


def _gone(pid: int, name: str = "") -> NoSuchProcessError:
    if pid > PID_MAX_LIMIT:
        return NoSuchProcessError(f"there is no such process: PIDs end at {PID_MAX_LIMIT}", hint=_how_to_find())
    which = f"process {pid} ({name})" if name else f"process {pid}"
    return NoSuchProcessError(f"there is no {which}: never was, or it has ended", hint=_how_to_find())


def _how_to_find() -> str:
    return "`pgrep -a NAME` or `ss -tunp` show PIDs; a NAME in place of the PID lists those it could mean."
