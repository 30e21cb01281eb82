"""A rule in the kernel as the model's RuleState."""

import time

from chadthrottle import cgroup
from chadthrottle.abi import ThrottleCount, ThrottleDirection
from chadthrottle.enforce.hooks import Hooks
from chadthrottle.enforce.membership import holder_of
from chadthrottle.enforce.queue import NO_QUEUES, QueueReport
from chadthrottle.enforce.rules import Rule
from chadthrottle.errors import KernelCannotError
from chadthrottle.model import AttachPoint, DirectionState, Engine, ProcessIdentity, RuleState, Scope

__all__ = ["state", "where"]

_NS_PER_S = 1_000_000_000


def where(hooks: Hooks) -> AttachPoint:
    """Where the hooks sit: the root, or the path of the cgroup."""
    wanted = hooks.cgroup_id
    try:
        found = cgroup.find(wanted)
    except KernelCannotError:  # unmounted since; the hooks sit where they sat
        return AttachPoint("/")
    if found is None:
        return AttachPoint("/(removed)")
    return AttachPoint.ROOT if found == cgroup.root() else AttachPoint(str(found))


def state(rule: Rule, hooks: Hooks, at: AttachPoint, *, children: bool, queues: QueueReport = NO_QUEUES) -> RuleState:
    """What is known of a rule; `children` is whether its processes' children belong to it."""
    holder = holder_of(hooks, rule.id)
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    expires_ns = rule.rule.expires_ns
    return RuleState(
        process=ProcessIdentity(rule.leader.pid, rule.leader.start_ticks, rule.name),
        up=_direction(rule, ThrottleDirection.UP, queues, now_ns),
        down=_direction(rule, ThrottleDirection.DOWN, queues, now_ns),
        attached_by=hooks.attached_by,
        at=at,
        children=children,
        scope=Scope[rule.scope.name],
        held_by=None if holder is None else holder.pid,
        remaining_s=None if expires_ns == 0 else max(0, (expires_ns - now_ns) // _NS_PER_S),
    )


def _direction(rule: Rule, direction: ThrottleDirection, queues: QueueReport, now_ns: int) -> DirectionState | None:
    asked = rule.rate(direction)
    if not asked:
        return None
    count = rule.meter.count[direction]
    queued = direction in rule.queued
    return DirectionState(
        engine=Engine.QUEUE if queued else Engine.CGROUP,
        asked_bytes_per_s=asked,
        achieved_bytes_per_s=_achieved(count, rule.meter.base_ns, now_ns),
        dropped_packets=count.dropped_packets + queues.dropped.get((rule.rule.queue, direction), 0),
        marked_packets=count.marked_packets,
        retransmitted_packets=count.retransmitted_packets,
        policed_share=_policed_share(count) if queued else None,
    )


def _policed_share(count: ThrottleCount) -> float:
    return count.policed_bytes / (count.policed_bytes + count.queued_bytes) if count.policed_bytes else 0.0


def _achieved(count: ThrottleCount, since_ns: int, now_ns: int) -> int | None:
    """The last measurement, or the running one if that is old: nothing closes it while nothing passes."""
    running_ns = now_ns - int(count.window_ns)
    if running_ns >= 2 * _NS_PER_S or not count.bytes_per_s:
        if now_ns - since_ns < _NS_PER_S // 10:
            return None
        return int(count.window_bytes) * _NS_PER_S // max(1, running_ns)
    return int(count.bytes_per_s)
