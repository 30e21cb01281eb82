"""How the limits that are in force are doing: what `chadthrottle list` notes, as findings."""

from chadthrottle.abi import ThrottleDirection, ThrottleWhy
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.finding import Group, Need, Outcome, Status, ok, unknown, warning
from chadthrottle.doctor.our_pins import Current, Pinned, told
from chadthrottle.enforce.rules import Rule
from chadthrottle.errors import ChadthrottleError

__all__ = ["CHECKS"]

_REPAIR = "sudo timeout 2 chadthrottle watch"
_QUEUES = "CT-ENF-06"
_PAST_THE_QUEUE = 0.05
"""Of what has passed since this doctor first looked. What went past the queue before that may be cured by now."""
_ENOUGH_BYTES = 50_000


def _devices(context: Context, pinned: Pinned) -> Outcome:
    """Removed, set down, or a device that has come since."""
    queued = [rule for rule in pinned.limited if rule.queued]
    if pinned.current is not Current.RUNNING or not queued:
        return ok("no limit in force is queued")
    del context
    from chadthrottle.doctor.queue_state import state_of  # netlink

    names = _names(queued)
    try:
        state = state_of(pinned.queues)
    except (ChadthrottleError, OSError) as error:
        return unknown(
            "the queues cannot be looked at",
            tried="list the devices of the network namespaces with a queue",
            came_back=error.message if isinstance(error, ChadthrottleError) else str(error),
        )
    if state.down:
        return warning(
            f"somebody set down the queue's device: {', '.join(state.down)}",
            tried="list the devices of the network namespaces with a queue",
            came_back="it is there, and not up",
            means=f"What {names} should receive goes to a device that passes nothing: downloads stand still.",
            cure=(_REPAIR, "Any throttle or release repairs it, too."),
        )
    if state.removed or not pinned.queues:
        return warning(
            f"somebody removed the queue's device: {', '.join(state.removed) or 'it could not be made again'}",
            tried="list the devices of the network namespaces with a queue",
            came_back="no IFB device with the index that was recorded",
            means=f"Filters of ours send what {names} should receive to a device that is not there: it is policed, "
            "or lost, until somebody repairs it.",
            cure=(_REPAIR, "Any throttle or release repairs it, too."),
        )
    if state.uncovered:
        return warning(
            f"not queued but policed: what arrives on {', '.join(state.uncovered)}",
            tried="compare the devices that are up with those that have a filter of ours",
            came_back=f"{', '.join(state.uncovered)} came since the limit was set",
            means="Limits hold there, but by dropping packets.",
            cure=(_REPAIR, "Any throttle or release does it, too."),
        )
    return ok(f"the queues of {names} are as they were made")


def _policed(context: Context, pinned: Pinned) -> Outcome:
    """`auto` could not queue, or much goes past the queue."""
    why = {
        ThrottleWhy.KERNEL: "this machine made no queue",
        ThrottleWhy.PERMISSION: "a queue was not permitted",
        ThrottleWhy.ROOM: "too many limits were queued",
        ThrottleWhy.UNFINISHED: "the command was killed",
    }
    found = []
    disturbed = context.status_of(_QUEUES) is not Status.OK
    now = {} if disturbed else _now(context)
    for rule in pinned.limited:
        reason = why.get(ThrottleWhy(rule.rule.why))
        if reason:
            found.append(f"{_name(rule)}: {reason} when the limit was set")
        share = _share_past(rule, now.get(rule.id))
        if share > _PAST_THE_QUEUE:
            found.append(f"{_name(rule)}: {share:.0%} of what arrives goes past the queue")
    if disturbed and not found:
        return unknown("what goes past the queue is not to be told", because=_QUEUES)
    if not found:
        return ok("limits in force hold by the means they were set with" if pinned.limited else "nothing is limited")
    return warning(
        f"downloads are policed, not queued: {'; '.join(found[:3])}",
        tried="read the limits and their counters",
        came_back="; ".join(found),
        means="They hold, but by dropping packets, which are sent again.",
        cure=(
            "Set the limit again: sudo chadthrottle throttle PID RATE",
            "It says what it lacks, if it lacks it still; traffic of containers and tunnels may pass no queue at all.",
        ),
    )


def _room(context: Context, pinned: Pinned) -> Outcome:
    del context
    lost = [f"{rule.meter.untracked} children of {_name(rule)}" for rule in pinned.limited if rule.meter.untracked]
    if not lost:
        return ok("every child of a limited process has found room")
    return warning(
        f"not limited for want of room: {', '.join(lost)}",
        tried="read the counters of the limits",
        came_back=", ".join(lost),
        means="At most 65536 processes can be limited at a time.",
        cure=("sudo chadthrottle list", "Release a limit that is not needed, then set this one again."),
    )


def _ended(context: Context, pinned: Pinned) -> Outcome:
    """With others: alone, the hooks are idle (CT-LEFT-05)."""
    del context
    if pinned.current is not Current.RUNNING or not pinned.ended:
        return ok("no limit that has ended is still in the maps")
    return warning(
        f"ended, and still in the kernel's maps: {_names(pinned.ended)}",
        tried="read the limits, their expiry and their processes",
        came_back=f"{len(pinned.ended)} that have expired or have no process",
        means="They limit nobody; connections may be paced as they were until it is cleared away.",
        cure=(_REPAIR, "The next throttle or release removes them."),
    )


def _now(context: Context) -> dict[int, Rule]:
    """The rules again: doctor took a second or so since it first looked, and their counters have moved."""
    from chadthrottle.limits.meters import read_meters

    try:
        return {number: each.rule for number, each in read_meters(context.base).items()}
    except (ChadthrottleError, OSError):  # removed meanwhile
        return {}


def _share_past(before: Rule, now: Rule | None) -> float:
    if now is None or ThrottleDirection.DOWN not in now.queued:
        return 0.0
    first, second = (each.meter.count[ThrottleDirection.DOWN] for each in (before, now))
    policed = int(second.policed_bytes) - int(first.policed_bytes)
    total = policed + int(second.queued_bytes) - int(first.queued_bytes)
    return policed / total if total > _ENOUGH_BYTES else 0.0


def _names(rules: list[Rule] | tuple[Rule, ...]) -> str:
    return ", ".join(map(_name, rules[:3])) + (f" and {len(rules) - 3} more" if len(rules) > 3 else "")


def _name(rule: Rule) -> str:
    return f"{rule.name} (PID {rule.leader.pid})"


_PINNED = frozenset({Need.BPF, Need.BPFFS})

CHECKS: tuple[Check, ...] = (
    Check(_QUEUES, Group.ENFORCEMENT, "queues in force", told(_devices), _PINNED),
    Check("CT-ENF-07", Group.ENFORCEMENT, "limits in force", told(_policed), _PINNED),
    Check("CT-ENF-08", Group.ENFORCEMENT, "children in force", told(_room), _PINNED),
    Check("CT-ENF-09", Group.ENFORCEMENT, "ended limits", told(_ended), _PINNED),
)
