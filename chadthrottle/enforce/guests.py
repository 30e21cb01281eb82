"""A process of ours in a rule of somebody else's, for as long as a measurement takes.

It joins as a child would by fork, and leaves by the exit hook at the latest: killed, it is out of the rule.
"""

import ctypes
import errno
from pathlib import Path

from chadthrottle import cgroup
from chadthrottle.enforce.hooks import Hooks
from chadthrottle.enforce.membership import members, set_membership
from chadthrottle.enforce.rules import Rule
from chadthrottle.errors import ChadthrottleError, KernelCannotError
from chadthrottle.procs import Identity

__all__ = ["has_others", "join", "leave", "move_below"]


def join(hooks: Hooks, guest: Identity, rule: Rule) -> bool:
    """Whether the rule was there to be joined. The caller holds the lock. Raises BpfError, KernelCannotError.

    What sockets the guest has already stay as they are. It counts as a member: the rule ends when it has left, too.
    """
    if not has_others(hooks, guest, rule):
        return False
    if not set_membership(hooks, guest, rule.id):
        raise KernelCannotError(
            f"no room for {guest} in the limit: too many processes are limited",
            hint="chadthrottle list shows the rules; release one.",
        )
    # Its last process may have ended in between, and the rule with it: joining does not bring it back.
    if hooks.rules.lookup(bytes(ctypes.c_uint64(rule.id))) is None:
        leave(hooks, guest)
        return False
    return True


def leave(hooks: Hooks, guest: Identity) -> None:
    """The guest is in no rule afterwards, whichever it was in. The caller holds the lock. Raises BpfError."""
    set_membership(hooks, guest, 0)


def has_others(hooks: Hooks, guest: Identity, rule: Rule) -> bool:
    """Whether a rule has a process but the guest; without, it would have ended."""
    return any(each != guest for each in members(hooks, rule.id))


def move_below(directory: Path, guest: Identity, leader: Identity) -> None:
    """Move the guest to where hooks at `directory` see the sockets it will make: there, or to the rule's leader.

    A cgroup that has controllers for those below it takes no processes (cgroup-v2.rst, "No Internal Process
    Constraint"); the leader's own does. Raises KernelCannotError.
    """
    try:
        _move(directory, guest)
    except OSError as error:
        home = _home(leader)
        if error.errno not in (errno.EBUSY, errno.EOPNOTSUPP) or not home or not home.is_relative_to(directory):
            raise KernelCannotError(f"cannot move a process to {directory}: {error.strerror}") from error
        try:
            _move(home, guest)
        except OSError as second:
            raise KernelCannotError(f"cannot move a process to {home}: {second.strerror}") from second


def _move(directory: Path, guest: Identity) -> None:
    (directory / "cgroup.procs").write_text(str(guest.pid), encoding="ascii")


def _home(leader: Identity) -> Path | None:
    try:
        return cgroup.path_of(leader.pid)
    except ChadthrottleError:  # it has ended, its children have not
        return None
