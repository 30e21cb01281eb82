"""Which processes a rule limits: the map `processes`, which forks and exits change in the kernel meanwhile."""

import ctypes

from chadthrottle.abi import THROTTLE_MAX_PROCESSES, ThrottleHolder, ThrottleMembership, ThrottleProcess
from chadthrottle.bpf.constants import ElemFlag
from chadthrottle.enforce.hooks import Hooks
from chadthrottle.errors import KernelCannotError
from chadthrottle.procs import Identity, NoSuchProcessError, descendants, is_alive

__all__ = [
    "ended",
    "forget_the_dead",
    "hold",
    "holder_of",
    "inheriting",
    "join",
    "members",
    "require_members",
    "set_membership",
]

# Each pass finds what the one before could not know of.
_MAX_PASSES = 4


def members(hooks: Hooks, rule_id: int) -> list[Identity]:
    """The living processes of a rule."""
    found = []
    for key, value in list(hooks.processes.items()):
        process = ThrottleProcess.from_buffer_copy(value)
        if process.rule == rule_id:
            found.append(Identity(int.from_bytes(key, "little"), process.start_ticks))
    return found


def inheriting(hooks: Hooks) -> set[int]:
    """The ids of the rules that children belong to."""
    found = (ThrottleProcess.from_buffer_copy(value) for _, value in list(hooks.processes.items()))
    return {process.rule for process in found if process.inherit}


def set_membership(hooks: Hooks, process: Identity, rule_id: int, *, inherit: bool = False) -> bool:
    """A process joins a rule, or with 0 leaves the one it is in. Whether it was done. Raises BpfError.

    By the kernel, which counts: a fork or an exit may come between any two steps of ours.
    """
    wanted = ThrottleMembership(rule=rule_id, start_ticks=process.start_ticks, tgid=process.pid, inherit=int(inherit))
    return bool(hooks.set_membership.call(bytes(wanted)))


def join(hooks: Hooks, rule_id: int, leader: Identity, *, inherit: bool) -> None:
    """Enter a process and, with `inherit`, those below it. Whoever is in a rule of its own stays there.

    From the leader's entry on, the fork hook enters its new children; each pass finds what was forked before.
    Raises NoSuchProcessError, KernelCannotError, BpfError.
    """
    before = _rule_of(hooks, leader)
    if not set_membership(hooks, leader, rule_id, inherit=inherit):
        raise KernelCannotError(
            f"no room for {leader}: {THROTTLE_MAX_PROCESSES} processes are limited already",
            hint="chadthrottle list shows the rules; release one.",
        )
    known: set[Identity] = set()
    entered = [leader]
    for _ in range(_MAX_PASSES if inherit else 0):
        known |= (below := descendants(leader.pid, known))
        strangers = [each for each in below if _rule_of(hooks, each) in {0, before} - {rule_id}]
        for each in strangers:
            set_membership(hooks, each, rule_id, inherit=True)
        entered += strangers
        if not strangers:
            break
    # Who ended before it was entered was seen by no exit hook.
    for each in entered:
        if not is_alive(each):
            set_membership(hooks, each, 0)
    if not is_alive(leader):
        raise ended(leader)
    require_members(hooks, rule_id, leader)


def require_members(hooks: Hooks, rule_id: int, leader: Identity) -> None:
    """Raises NoSuchProcessError when all of a rule's processes have ended."""
    if not members(hooks, rule_id):
        raise ended(leader)


def ended(leader: Identity) -> NoSuchProcessError:
    """The error for a process that did not live long enough."""
    return NoSuchProcessError(f"{leader} ended while it was being limited")


def hold(hooks: Hooks, rule_id: int, holder: Identity) -> None:
    """The rule ends with this process, in the kernel, however it ends. Raises BpfError."""
    entry = ThrottleHolder(rule=rule_id, start_ticks=holder.start_ticks)
    hooks.holders.update(bytes(ctypes.c_uint32(holder.pid)), bytes(entry), ElemFlag.BPF_ANY)


def holder_of(hooks: Hooks, rule_id: int) -> Identity | None:
    """The process with whose end the rule ends, dead or alive; None: it has none."""
    for key, value in list(hooks.holders.items()):
        entry = ThrottleHolder.from_buffer_copy(value)
        if entry.rule == rule_id:
            return Identity(int.from_bytes(key, "little"), entry.start_ticks)
    return None


def forget_the_dead(hooks: Hooks) -> None:
    """Who ended before it was in the map, or while nothing was attached, was seen by no exit hook: it leaves here."""
    for key, value in list(hooks.processes.items()):
        process = Identity(int.from_bytes(key, "little"), ThrottleProcess.from_buffer_copy(value).start_ticks)
        if not is_alive(process):
            set_membership(hooks, process, 0)
    for key, value in list(hooks.holders.items()):
        entry = ThrottleHolder.from_buffer_copy(value)
        if not is_alive(Identity(int.from_bytes(key, "little"), entry.start_ticks)):
            hooks.rules.delete(bytes(ctypes.c_uint64(entry.rule)))
            hooks.holders.delete(key)


def _rule_of(hooks: Hooks, process: Identity) -> int:
    """0: none."""
    value = hooks.processes.lookup(bytes(ctypes.c_uint32(process.pid)))
    entry = ThrottleProcess() if value is None else ThrottleProcess.from_buffer_copy(value)
    return entry.rule if entry.start_ticks == process.start_ticks else 0
