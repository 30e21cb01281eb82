"""A limit that lasts as long as a command: its links are not pinned, and end with whoever holds them.

    command                                   guard, in a session of its own
    forks the guard ────────────────────────> waits for the other end of a pipe to close
    sets the limit, keeps the links           …
    waits for a signal, or the limit's end    …
    ends the limit                            …
    (gone, however it went)  ───────────────> ends what is left: pacing, legacy attachments, pins

The kernel itself ends the rule with the command (the map `holders`), whoever else keeps the hooks, and the hooks go
with their last descriptor. What a killed command cannot do is put connections' pacing back: that is the guard's.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

from chadthrottle.enforce import hooks as hooks_module
from chadthrottle.enforce import rules
from chadthrottle.enforce.membership import holder_of
from chadthrottle.limits.release import release_held
from chadthrottle.limits.throttle import Throttled, set_limit
from chadthrottle.model import RuleSpec
from chadthrottle.procs import Identity, read_stat

__all__ = ["hold"]

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
LOOK_EVERY_S = 0.5
PR_SET_NAME = 15  # include/uapi/linux/prctl.h
GUARD_NAME = b"ct-guard"  # not "chadthrottle": a pkill of that name is what it is there for


def hold(spec: RuleSpec, tell: Callable[[Throttled], None], base: Path | None = None) -> bool:
    """Limit a process until a signal comes (HUP, INT, TERM, QUIT) or the limit ends otherwise; whether it was a signal.

    `tell` is called when the limit stands. Everything is as before afterwards, also when this process is
    killed. Raises as `limits.throttle`; UsageError if the process has a limit already.
    """
    stat = read_stat(os.getpid())
    assert stat is not None, "we live"
    me = stat.identity
    with _signals_blocked(), _guard(me, base), ExitStack() as stack:
        stack.callback(release_held, me, base)
        done, links = set_limit(spec, base, holder=me)
        for link in links:
            stack.callback(link.close)
        tell(done)
        while signal.sigtimedwait(ENDING, LOOK_EVERY_S) is None:
            if not _stands(me, base):
                return False
        return True


def _stands(holder: Identity, base: Path | None) -> bool:
    pins = hooks_module.pins_of_this_version(base)
    with pins.lock(create=False) as there:
        if not there or not pins.current:
            return False
        with hooks_module.open_pinned(pins) as hooks:
            held = [rule for rule in rules.all_rules(hooks) if holder_of(hooks, rule.id) == holder]
            return any(not rule.expired for rule in held)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """They wait for sigtimedwait(2), so that none comes between two steps."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        # A second Ctrl-C, while we were ending what it asks to end.
        while signal.sigtimedwait(ENDING, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _guard(holder: Identity, base: Path | None) -> Iterator[None]:
    """A process that cleans up after us if we cannot."""
    waiting, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _be_guard(waiting, holder, base)
    os.close(waiting)
    try:
        yield
    finally:
        os.close(ours)
        os.waitpid(pid, 0)


def _be_guard(waiting: int, holder: Identity, base: Path | None) -> NoReturn:
    status = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_NAME, GUARD_NAME)
        os.chdir("/")
        # Whoever reads our parent's output waits for its end, not for ours.
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in 0, 1, 2:
            os.dup2(nothing, fd)
        os.read(waiting, 1)
        release_held(holder, base)
        status = 0
    finally:
        os._exit(status)
