"""Run a program that is limited from its first packet on.

    parent                              child
    fork ─────────────────────────────> waits at the barrier
    throttle(child)                     …
    lets go ──────────────────────────> becomes the user, executes COMMAND
    waits, forwards signals             COMMAND
    ends the rule                       (gone)

A child whose parent dies at the barrier ends: nothing ever runs that is not limited.
"""

import errno
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from chadthrottle.errors import ChadthrottleError, UsageError
from chadthrottle.limits.release import release_identity
from chadthrottle.limits.throttle import Throttled
from chadthrottle.procs import Identity, NoSuchProcessError, read_stat, require_initial_namespaces

__all__ = ["CannotExecuteError", "User", "invoking_user", "run"]

FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
             signal.SIGALRM, signal.SIGWINCH)  # fmt: skip
# include/uapi/asm-generic/siginfo.h: sent by the kernel itself, as for Ctrl-C on a terminal
SI_KERNEL = 0x80


class CannotExecuteError(ChadthrottleError):
    """COMMAND is not there, or is no program. Exit codes as env(1), nice(1) and timeout(1) have them."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message, hint="Write the command and its arguments after --, as you would type it.")
        self.exit_code = 127 if number in (errno.ENOENT, errno.ENOTDIR) else 126


@dataclass(frozen=True, slots=True)
class User:
    """Whom a program runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    variables: Mapping[str, str]
    """HOME, USER and the like, as far as they are known."""


def invoking_user(environment: Mapping[str, str]) -> User | None:
    """Who called sudo; None if nobody did, or root. Raises UsageError for variables that make no sense.

    sudo(8) sets SUDO_UID and SUDO_GID. When they are damaged nothing is run: as root would be a surprise.
    """
    import pwd

    if os.geteuid() != 0 or not {"SUDO_UID", "SUDO_GID"} & environment.keys():
        return None
    try:
        uid, gid = (_id(environment.get(name, "")) for name in ("SUDO_UID", "SUDO_GID"))
    except ValueError as error:
        raise UsageError(
            "SUDO_UID and SUDO_GID do not say who called sudo", hint="Unset both, or run it with --as-root."
        ) from error
    if uid == 0:
        return None
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:  # a user of a directory that is not reachable now, or of a container
        return User(uid, gid, (gid,), {"HOME": "/"})
    names = {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name, "SHELL": entry.pw_shell}
    return User(uid, gid, tuple(os.getgrouplist(entry.pw_name, gid)), names)


def run(
    command: Sequence[str],
    user: User | None,
    limit: Callable[[Identity], Throttled],
    tell: Callable[[Throttled], None],
    base: Path | None = None,
) -> int:
    """Run `command` under the limit that `limit` sets; its exit status, 128 + n if signal n ended it.

    `tell` is called when the limit stands and COMMAND does not run yet. The rule is gone afterwards, and the
    hooks too unless others need them. Raises CannotExecuteError, and what `limit` raises: nothing was run.
    """
    require_initial_namespaces()
    with _blocked_signals() as inherited:
        child = _Child(command, user, inherited)
        try:
            stat = read_stat(child.pid)
            if stat is None:
                raise NoSuchProcessError(f"process {child.pid}, made for COMMAND, was killed")
            identity = stat.identity
            throttled = limit(identity)
            try:
                tell(throttled)
                child.let_go()
                return _wait(child)
            finally:
                release_identity(identity, base)
        finally:
            child.end()


class _Child:
    """The process that will be COMMAND, and waits at the barrier."""

    def __init__(self, command: Sequence[str], user: User | None, inherited: set[signal.Signals]) -> None:
        waiting, self._barrier = os.pipe()  # os.pipe() is close-on-exec: COMMAND inherits neither
        self._failure, failed = os.pipe()
        self._command = command
        self._reaped = False
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._barrier)
            os.close(self._failure)
            _become(command, user, inherited, waiting, failed)
        os.close(waiting)
        os.close(failed)

    def let_go(self) -> None:
        """Execute COMMAND. Raises CannotExecuteError."""
        try:
            os.write(self._barrier, b"!")
        except BrokenPipeError:  # killed meanwhile; its status tells
            return
        answer = b""
        while block := os.read(self._failure, 4096):
            answer += block
        if answer:
            step, number = answer.decode().rsplit(" ", 1)
            what = self._command[0] if step == "exec" else f"{step} for {self._command[0]}"
            raise CannotExecuteError(f"{what}: {os.strerror(int(number))}", int(number))

    def status(self) -> int | None:
        """As a shell reports it; None while it lives."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        self._reaped = True
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def end(self) -> None:
        """Whatever state it is in, it is gone afterwards."""
        os.close(self._barrier)
        os.close(self._failure)
        if not self._reaped:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@contextmanager
def _blocked_signals() -> Iterator[set[signal.Signals]]:
    """They wait to be read with sigwaitinfo(2), which tells who sent them. Gives the mask from before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD})
    # An ignored SIGCHLD, which a parent may leave us, makes children vanish unseen.
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield {signal.Signals(number) for number in before}
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)
        # What is still pending was meant for COMMAND, which is gone.
        while signal.sigtimedwait({*FORWARDED, signal.SIGCHLD}, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(child: _Child) -> int:
    """Forward signals until COMMAND ends.

    What a terminal sends (Ctrl-C) goes to the whole foreground group, COMMAND included, and comes from the
    kernel: forwarded, it would arrive twice.
    """
    while (status := child.status()) is None:
        about = signal.sigwaitinfo({*FORWARDED, signal.SIGCHLD})
        if about.si_signo != signal.SIGCHLD and about.si_code != SI_KERNEL:
            os.kill(child.pid, about.si_signo)
    return status


def _become(
    command: Sequence[str], user: User | None, inherited: set[signal.Signals], waiting: int, failed: int
) -> NoReturn:
    """The child's whole life until COMMAND; it never returns into what it was forked from."""
    step = "start"
    try:
        if os.read(waiting, 1) == b"":
            os._exit(125)  # our parent failed, or died
        variables = dict(os.environ)
        if user is not None:
            step = "change of user"
            os.setgroups(user.groups)
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
            variables = {name: value for name, value in variables.items() if not name.startswith("SUDO_")}
            variables |= user.variables
        # Python ignores these; COMMAND would inherit it.
        for number in signal.SIGPIPE, signal.SIGXFSZ:
            signal.signal(number, signal.SIG_DFL)
        # A Ctrl-C that waits behind the mask is COMMAND's, not this interpreter's to turn into an exception.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        step = "exec"
        signal.pthread_sigmask(signal.SIG_SETMASK, inherited)
        os.execvpe(command[0], list(command), variables)  # noqa: S606 # that is what was asked
    except OSError as error:
        os.write(failed, f"{step} {error.errno}".encode())
    finally:
        os._exit(125)


def _id(text: str) -> int:
    number = int(text)
    if not text.isascii() or not text.isdigit() or number >= 2**32 - 1:
        raise ValueError(text)
    return number
