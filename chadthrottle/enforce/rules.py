"""Rules in the kernel's maps: reading, arming, ending. The caller holds the lock.

meters[id]     made first: counters, and for whom the rule is
processes[pid] who belongs to it
rules[id]      the commit: nothing is limited before it is there, nothing after it is gone
"""

import ctypes
import errno
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from chadthrottle.abi import (
    THROTTLE_MAX_PROCESSES,
    ThrottleBeginning,
    ThrottleDirection,
    ThrottleMembership,
    ThrottleMeter,
    ThrottleProcess,
    ThrottleRule,
    ThrottleSocket,
)
from chadthrottle.bpf.constants import ElemFlag
from chadthrottle.bpf.errors import BpfError
from chadthrottle.enforce.hooks import Hooks
from chadthrottle.enforce.namespaces import Namespaces, namespaces_of
from chadthrottle.errors import ChadthrottleError, KernelCannotError
from chadthrottle.procs import Identity, NoSuchProcessError, descendants, is_alive

__all__ = [
    "BURST_NS",
    "Rule",
    "all_rules",
    "create",
    "end",
    "expiry_in",
    "inheriting",
    "members",
    "set_rates",
    "sweep",
    "undone_by",
]

BURST_NS = 200_000_000
"""How far ahead of its rate a rule may be. A local drop is retried by TCP's probe timer after 200 ms, so a
shorter burst starves; a longer one lets the first second exceed the limit by more than a quarter."""

FASTEST_BYTES_PER_S = 12_500_000_000
"""The highest limit there is: the share of a rule without one on uploads, for when it is given one."""

# Time for sending connections to shrink their windows before they are paced: about one round trip (ebpf/pace.bpf.h).
_SETTLE_NS = 20_000_000

# Each pass finds what the one before could not know of.
_MAX_PASSES = 4


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as it stands in the kernel."""

    id: int
    rule: ThrottleRule
    meter: ThrottleMeter

    @property
    def leader(self) -> Identity:
        """The process it was made for; it may have ended."""
        return Identity(self.meter.leader, self.meter.leader_start_ticks)

    @property
    def name(self) -> str:
        return self.meter.name.decode("utf-8", "replace")

    def rate(self, direction: ThrottleDirection) -> int:
        """bytes/s; 0 if that direction is not limited."""
        return int(self.rule.rate[direction].bytes_per_s)

    @property
    def expired(self) -> bool:
        return bool(self.rule.expires_ns) and _now_ns() >= self.rule.expires_ns


def all_rules(hooks: Hooks) -> Iterator[Rule]:
    """Every rule that limits somebody, or is just expired."""
    for key, value in list(hooks.rules.items()):
        meter = hooks.meters.lookup(key)
        if meter is not None:
            rule, counted = ThrottleRule.from_buffer_copy(value), ThrottleMeter.from_buffer_copy(meter)
            yield Rule(int.from_bytes(key, "little"), rule, counted)


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


def create(
    hooks: Hooks, leader: Identity, name: str, rates: tuple[int, int], *, inherit: bool, duration_s: int | None
) -> int:
    """Make a rule for a process and, with `inherit`, its descendants; its id.

    `rates` are up and down in bytes/s (0: not limited).

    Connections that are there are paced before the bucket is armed: the other way round a running one
    gets a fraction of its limit. Undone in reverse when a step fails. Raises NoSuchProcessError,
    KernelCannotError, BpfError, OSError.
    """
    now_ns = _now_ns()
    rule_id = now_ns  # never used before or again: boot time only goes forward, and the lock is held
    key = _key(rule_id)
    meter = ThrottleMeter(
        share=rates[ThrottleDirection.UP] or FASTEST_BYTES_PER_S,
        epoch_ns=now_ns,
        base_ns=now_ns,
        leader=leader.pid,
        leader_start_ticks=leader.start_ticks,
        name=name.encode()[:15],
    )
    for direction in ThrottleDirection:
        meter.count[direction].window_ns = now_ns
    with undone_by(lambda: end(hooks, rule_id)):
        hooks.meters.update(key, bytes(meter), ElemFlag.BPF_NOEXIST)
        _join(hooks, rule_id, leader, inherit=inherit)
        with _places(hooks, rule_id, members(hooks, rule_id)) as places:
            sending = _share_out(hooks, rule_id, rates[ThrottleDirection.UP], places)
            rule = _rule(rates, _expiry(duration_s, now_ns))
            hooks.rules.update(key, bytes(rule), ElemFlag.BPF_NOEXIST)
            places.each(hooks.connections.read)
            if sending:
                time.sleep(_SETTLE_NS / 1e9)
                places.each(hooks.connections.read)
        rule.armed = 1
        _update(hooks, rule_id, leader, rule)
        _require_members(hooks, rule_id, leader)
    return rule_id


def set_rates(hooks: Hooks, rule: Rule, rates: tuple[int, int], expires_ns: int) -> None:
    """Change a rule's rates and end (CLOCK_BOOTTIME; 0: never).

    The share of its connections follows within some epochs. It claims its processes' sockets again. Put
    back when a step fails. Raises as `create`.
    """
    changed = _rule(rates, expires_ns)
    changed.armed = 1
    with undone_by(lambda: _put(hooks, rule, rule.rule)):
        _put(hooks, rule, changed)


def end(hooks: Hooks, rule_id: int) -> None:
    """End a rule: first what limits, then what it left; connections get their own pacing back.

    Whichever step fails, the others are done. Raises BpfError, OSError.
    """
    key = _key(rule_id)
    processes = members(hooks, rule_id)
    with ExitStack() as steps:  # from the last to the first
        steps.callback(hooks.meters.delete, key)
        steps.callback(_lift, hooks, rule_id, processes)
        for process in processes:
            steps.callback(_set_membership, hooks, process, 0)
        steps.callback(hooks.rules.delete, key)


@contextmanager
def undone_by(action: Callable[[], None]) -> Iterator[None]:
    """Run `action` when the block fails. The block's error is the one to tell of; a second one is a note to it."""
    try:
        yield
    except BaseException as error:
        try:
            action()
        except (ChadthrottleError, OSError) as second:
            error.add_note(f"and undoing it: {second}")
        raise


def expiry_in(duration_s: int | None) -> int:
    """When a rule ends that is to last so long from now, for `set_rates`."""
    return _expiry(duration_s, _now_ns())


def sweep(hooks: Hooks) -> int:
    """Remove what ended rules left: meters without a rule, rules that expired. How many there were.

    A process that ended before it was in the map was seen by no exit hook: it leaves here.
    """
    for key, value in list(hooks.processes.items()):
        process = Identity(int.from_bytes(key, "little"), ThrottleProcess.from_buffer_copy(value).start_ticks)
        if not is_alive(process):
            _set_membership(hooks, process, 0)
    gone = [rule.id for rule in all_rules(hooks) if rule.expired or not members(hooks, rule.id)]
    armed = set(hooks.rules.keys())
    gone += [int.from_bytes(key, "little") for key in list(hooks.meters.keys()) if key not in armed]
    for rule_id in gone:
        end(hooks, rule_id)
    return len(gone)


def _join(hooks: Hooks, rule_id: int, leader: Identity, *, inherit: bool) -> None:
    """Enter a process and those below it. Whoever is in a rule of its own stays there.

    From the leader's entry on, the fork hook enters its new children; each pass finds what was forked before.
    """
    before = _rule_of(hooks, leader)
    if not _set_membership(hooks, leader, rule_id, inherit=inherit):
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
            _set_membership(hooks, each, rule_id, inherit=True)
        entered += strangers
        if not strangers:
            break
    # Who ended before it was entered was seen by no exit hook.
    for each in entered:
        if not is_alive(each):
            _set_membership(hooks, each, 0)
    if not is_alive(leader):
        raise _ended(leader)
    _require_members(hooks, rule_id, leader)


def _require_members(hooks: Hooks, rule_id: int, leader: Identity) -> None:
    if not members(hooks, rule_id):
        raise _ended(leader)


def _rule_of(hooks: Hooks, process: Identity) -> int:
    """0: none."""
    value = hooks.processes.lookup(bytes(ctypes.c_uint32(process.pid)))
    entry = ThrottleProcess() if value is None else ThrottleProcess.from_buffer_copy(value)
    return entry.rule if entry.start_ticks == process.start_ticks else 0


@contextmanager
def _places(hooks: Hooks, rule_id: int, processes: Iterable[Identity]) -> Iterator[Namespaces]:
    """Tag the sockets that members have open; the network namespaces with sockets of the rule, or with members."""
    hooks.claim.update(bytes(4), _key(rule_id))
    found = hooks.open_files.read()
    size = ctypes.sizeof(ThrottleSocket)
    sockets = [ThrottleSocket.from_buffer_copy(found, at) for at in range(0, len(found), size)]
    with namespaces_of([process.pid for process in processes], sockets) as places:
        yield places


def _lift(hooks: Hooks, rule_id: int, processes: Iterable[Identity]) -> None:
    with _places(hooks, rule_id, processes) as places:
        places.each(hooks.connections.read)


def _update(hooks: Hooks, rule_id: int, leader: Identity, rule: ThrottleRule) -> None:
    try:
        hooks.rules.update(_key(rule_id), bytes(rule), ElemFlag.BPF_EXIST)
    except BpfError as error:
        if error.errno == errno.ENOENT:  # with its last process
            raise _ended(leader) from error
        raise


def _put(hooks: Hooks, rule: Rule, wanted: ThrottleRule) -> None:
    _update(hooks, rule.id, rule.leader, wanted)
    with _places(hooks, rule.id, members(hooks, rule.id)) as places:
        places.each(hooks.connections.read)


def _ended(leader: Identity) -> NoSuchProcessError:
    return NoSuchProcessError(f"{leader} ended while it was being limited")


def _share_out(hooks: Hooks, rule_id: int, rate: int, places: Namespaces) -> int:
    """A first share for each connection that is sending; how many there are."""
    if not rate:
        return 0
    places.each(hooks.connections.read)
    settled_ns = _now_ns() + _SETTLE_NS
    beginning = ThrottleBeginning(rule=rule_id, bytes_per_s=rate, settled_ns=settled_ns)
    return hooks.begin_pacing.call(bytes(beginning))


def _rule(rates: tuple[int, int], expires_ns: int) -> ThrottleRule:
    rule = ThrottleRule(expires_ns=expires_ns)
    for direction in ThrottleDirection:
        rule.rate[direction].bytes_per_s = rates[direction]
        rule.rate[direction].burst_ns = BURST_NS
    return rule


def _expiry(duration_s: int | None, now_ns: int) -> int:
    return 0 if duration_s is None else now_ns + duration_s * 1_000_000_000


def _key(rule_id: int) -> bytes:
    return bytes(ctypes.c_uint64(rule_id))


def _set_membership(hooks: Hooks, process: Identity, rule_id: int, *, inherit: bool = False) -> bool:
    """By the kernel, which counts: a fork or an exit may come between any two steps of ours. Whether it was done."""
    wanted = ThrottleMembership(rule=rule_id, start_ticks=process.start_ticks, tgid=process.pid, inherit=int(inherit))
    return bool(hooks.set_membership.call(bytes(wanted)))


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
