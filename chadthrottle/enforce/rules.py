"""Rules in the kernel's maps: reading, arming, changing, ending. The caller holds the lock.

meters[id]     made first: counters, and for whom the rule is
processes[pid] who belongs to it (membership.py)
rules[id]      the commit: nothing is limited before it is there, nothing after it is gone
"""

import ctypes
import errno
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from chadthrottle.abi import (
    ThrottleDirection,
    ThrottleMeter,
    ThrottleRule,
    ThrottleScope,
    ThrottleSharing,
    ThrottleWhy,
)
from chadthrottle.bpf.constants import ElemFlag
from chadthrottle.bpf.errors import BpfError
from chadthrottle.enforce.hooks import Hooks
from chadthrottle.enforce.membership import (
    ended,
    forget_the_dead,
    hold,
    holder_of,
    join,
    members,
    require_members,
    set_membership,
)
from chadthrottle.enforce.namespaces import Namespaces, namespaces_of
from chadthrottle.enforce.open_sockets import claim_open_sockets
from chadthrottle.enforce.queue import Held
from chadthrottle.enforce.queue import hold as hold_in_queues
from chadthrottle.enforce.queue import sweep as sweep_queues
from chadthrottle.errors import ChadthrottleError
from chadthrottle.model import Engine
from chadthrottle.procs import Identity, is_alive

__all__ = ["BURST_NS", "Rule", "Terms", "all_rules", "change", "create", "end", "expiry_in", "sweep", "undone_by"]

BURST_NS = 200_000_000
"""How far ahead of its rate a rule may be. A local drop is retried by TCP's probe timer after 200 ms, so a
shorter burst starves; a longer one lets the first second exceed the limit by more than a quarter."""

FASTEST_BYTES_PER_S = 12_500_000_000
"""The highest limit there is: the share of a rule without one on uploads, for when it is given one."""

# Time for sending connections to shrink their windows before they are paced: about one round trip (ebpf/pace.bpf.h).
_SETTLE_NS = 20_000_000

# As long for downloads: some round trips, each of which may take a third of a window (RFC 9438).
_DOWNLOADS_SETTLE_NS = 120_000_000
_NOT_WORTH_SETTLING_BYTES = 65536

# A command that is killed between pacing and arming leaves a rule that arms itself.
_ARMS_ITSELF_NS = 1_000_000_000


POLICED = Held()


class Terms(NamedTuple):
    """What a rule asks for."""

    up_bytes_per_s: int
    down_bytes_per_s: int
    """0: not limited."""
    expires_ns: int
    """CLOCK_BOOTTIME; 0: never."""
    scope: ThrottleScope

    @property
    def rates(self) -> dict[ThrottleDirection, int]:
        """bytes/s; 0: not limited."""
        return {ThrottleDirection.UP: self.up_bytes_per_s, ThrottleDirection.DOWN: self.down_bytes_per_s}

    def armed_at(self, armed_ns: int, held: Held = POLICED) -> ThrottleRule:
        """As the kernel takes it."""
        rule = ThrottleRule(expires_ns=self.expires_ns, armed_ns=armed_ns, scope=self.scope)
        rule.rate[ThrottleDirection.UP].bytes_per_s = self.up_bytes_per_s
        rule.rate[ThrottleDirection.DOWN].bytes_per_s = self.down_bytes_per_s
        for direction in ThrottleDirection:
            rule.rate[direction].burst_ns = BURST_NS
        held.apply(rule)
        return rule


class Rule(NamedTuple):
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
    def rates(self) -> dict[ThrottleDirection, int]:
        return {direction: self.rate(direction) for direction in ThrottleDirection}

    @property
    def queued(self) -> frozenset[ThrottleDirection]:
        """What a queue holds, where there is one on a packet's way."""
        return frozenset(each for each in ThrottleDirection if self.rule.queue and self.rule.queued & 1 << each)

    @property
    def scope(self) -> ThrottleScope:
        return ThrottleScope(self.rule.scope)

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


def create(
    hooks: Hooks,
    leader: Identity,
    name: str,
    terms: Terms,
    *,
    inherit: bool,
    holder: Identity | None = None,
    engine: Engine = Engine.AUTO,
) -> tuple[int, Held]:
    """Make a rule for a process and, with `inherit`, its descendants; its id, and by which means it holds. It ends with
    `holder`, if there is one.

    Connections that are there are paced before the bucket is armed: the other way round a running one
    gets a fraction of its limit. Undone in reverse when a step fails. Raises NoSuchProcessError,
    KernelCannotError, NotPermittedError, BpfError, OSError.
    """
    now_ns = _now_ns()
    rule_id = now_ns  # never used before or again: boot time only goes forward, and the lock is held
    key = _key(rule_id)
    meter = ThrottleMeter(
        share=terms.up_bytes_per_s or FASTEST_BYTES_PER_S,
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
        if holder is not None:
            hold(hooks, rule_id, holder)
        join(hooks, rule_id, leader, inherit=inherit)
        with _places(hooks, rule_id, members(hooks, rule_id)) as places:
            sending = _count_sending(hooks, rule_id, places) if terms.up_bytes_per_s else 0
            _share_out(hooks, rule_id, terms.up_bytes_per_s // max(1, sending))
            begun_ns = _now_ns()
            unfinished = POLICED if engine is Engine.CGROUP else POLICED._replace(why=ThrottleWhy.UNFINISHED)
            unarmed = terms.armed_at(begun_ns + _ARMS_ITSELF_NS, unfinished)
            hooks.rules.update(key, bytes(unarmed), ElemFlag.BPF_NOEXIST)
            _pace(hooks, places, settle=sending > 0)
            held = hold_in_queues(hooks, engine, terms.rates, ThrottleRule(), places)
        if terms.down_bytes_per_s:
            _let_downloads_settle(hooks, rule_id, terms.down_bytes_per_s, begun_ns)
        _update(hooks, rule_id, leader, terms.armed_at(_now_ns(), held))
        require_members(hooks, rule_id, leader)
    return rule_id, held


def change(hooks: Hooks, rule: Rule, terms: Terms, engine: Engine = Engine.AUTO) -> Held:
    """Give a rule other terms; by which means it holds. It claims its processes' sockets again, and looks for the
    children that found no room.

    Where uploads become slower, connections are paced before the bucket is armed, as in `create`. Put
    back when a step fails. Raises as `create`.
    """
    before, after = rule.rate(ThrottleDirection.UP), terms.up_bytes_per_s
    slower = bool(after) and (not before or after < before)
    begins_down = bool(terms.down_bytes_per_s) and not rule.rate(ThrottleDirection.DOWN)
    share = int(rule.meter.share)
    as_before = Held(rule.rule.queue, rule.queued, ThrottleWhy(rule.rule.why))
    if rule.meter.untracked and is_alive(rule.leader):
        join(hooks, rule.id, rule.leader, inherit=True)

    def put_back() -> None:
        _share_out(hooks, rule.id, share)
        _update(hooks, rule.id, rule.leader, rule.rule)
        with _places(hooks, rule.id, members(hooks, rule.id)) as places:
            _pace(hooks, places, settle=False)
            if rule.queued:
                hold_in_queues(hooks, Engine.AUTO, rule.rates, rule.rule, places)

    with undone_by(put_back), _places(hooks, rule.id, members(hooks, rule.id)) as places:
        if before and after:
            # What was in balance at the old limit is in balance at the new one.
            _share_out(hooks, rule.id, share * after // before)
        elif after:
            counted = _count_sending(hooks, rule.id, places) - int(rule.meter.sending)
            _share_out(hooks, rule.id, after // max(1, counted))
        # Armed at once unless there is something to wait for.
        waits = slower or begins_down
        begun_ns = _now_ns()
        _update(hooks, rule.id, rule.leader, terms.armed_at(begun_ns + _ARMS_ITSELF_NS if waits else 1, as_before))
        _pace(hooks, places, settle=slower)
        held = hold_in_queues(hooks, engine, terms.rates, rule.rule, places)
        if begins_down:
            _let_downloads_settle(hooks, rule.id, terms.down_bytes_per_s, begun_ns)
        _update(hooks, rule.id, rule.leader, terms.armed_at(_now_ns(), held))
    return held


def end(hooks: Hooks, rule_id: int) -> None:
    """End a rule: first what limits, then what it left; connections get their own pacing back.

    Whichever step fails, the others are done. Raises BpfError, OSError.
    """
    key = _key(rule_id)
    processes = members(hooks, rule_id)
    holder = holder_of(hooks, rule_id)
    with ExitStack() as steps:  # from the last to the first
        steps.callback(hooks.meters.delete, key)
        steps.callback(_lift, hooks, rule_id, processes)
        for process in processes:
            steps.callback(set_membership, hooks, process, 0)
        if holder is not None:
            steps.callback(hooks.holders.delete, bytes(ctypes.c_uint32(holder.pid)))
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
    """When a rule ends that is to last so long from now; for `Terms.expires_ns`."""
    return 0 if duration_s is None else _now_ns() + duration_s * 1_000_000_000


def sweep(hooks: Hooks) -> tuple[str, ...]:
    """Remove what ended rules left: meters without a rule, rules that expired, queues and classes. Queues that stay are
    repaired, and attached to devices that have come; what could not be repaired is told, in sentences.
    """
    forget_the_dead(hooks)
    gone = [rule.id for rule in all_rules(hooks) if rule.expired or not members(hooks, rule.id)]
    armed = set(hooks.rules.keys())
    gone += [int.from_bytes(key, "little") for key in list(hooks.meters.keys()) if key not in armed]
    for rule_id in gone:
        end(hooks, rule_id)
    return sweep_queues(hooks)


@contextmanager
def _places(hooks: Hooks, rule_id: int, processes: Iterable[Identity]) -> Iterator[Namespaces]:
    """Tag the sockets that members have open; the network namespaces with sockets of the rule, or with members."""
    processes = list(processes)
    sockets = claim_open_sockets(hooks, rule_id, processes)
    with namespaces_of([process.pid for process in processes], sockets) as places:
        yield places


def _lift(hooks: Hooks, rule_id: int, processes: Iterable[Identity]) -> None:
    with _places(hooks, rule_id, processes) as places:
        places.each(hooks.connections.read)


def _pace(hooks: Hooks, places: Namespaces, *, settle: bool) -> None:
    """The connections that are there. With `settle`, those with large windows shrink them first."""
    places.each(hooks.connections.read)
    if settle:
        time.sleep(_SETTLE_NS / 1e9)
        places.each(hooks.connections.read)


def _let_downloads_settle(hooks: Hooks, rule_id: int, bytes_per_s: int, begun_ns: int) -> None:
    """Until it is armed, a rule tells those that send faster than its limit to slow down (judge.bpf.h): else what
    they have under way, megabytes on a fast path, would be lost at once. Connections with less need no time.
    """
    remaining_ns = begun_ns + _DOWNLOADS_SETTLE_NS - _now_ns()
    value = hooks.meters.lookup(_key(rule_id))
    if remaining_ns <= 0 or value is None:
        return
    counted = ThrottleMeter.from_buffer_copy(value).count[ThrottleDirection.DOWN]
    if counted.passed_bytes > bytes_per_s * (_now_ns() - begun_ns) // 1_000_000_000 + _NOT_WORTH_SETTLING_BYTES:
        time.sleep(remaining_ns / 1e9)


def _count_sending(hooks: Hooks, rule_id: int, places: Namespaces) -> int:
    """How many connections of a rule without an upload limit were found sending, in all readings so far."""
    places.each(hooks.connections.read)
    value = hooks.meters.lookup(_key(rule_id))
    return 0 if value is None else int(ThrottleMeter.from_buffer_copy(value).sending)


def _share_out(hooks: Hooks, rule_id: int, share: int) -> None:
    sharing = ThrottleSharing(rule=rule_id, share=share or FASTEST_BYTES_PER_S, settled_ns=_now_ns() + _SETTLE_NS)
    hooks.set_share.call(bytes(sharing))


def _update(hooks: Hooks, rule_id: int, leader: Identity, rule: ThrottleRule) -> None:
    try:
        hooks.rules.update(_key(rule_id), bytes(rule), ElemFlag.BPF_EXIST)
    except BpfError as error:
        if error.errno == errno.ENOENT:  # with its last process
            raise ended(leader) from error
        raise


def _key(rule_id: int) -> bytes:
    return bytes(ctypes.c_uint64(rule_id))


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
