"""The family enforcement: by which means limits hold, tried with a limit of our own; and how the running ones do."""

from typing import TYPE_CHECKING

from chadthrottle.bpf.errors import BpfError, errno_name
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.finding import Group, Need, Outcome, Status, failed, ok, unknown, warning
from chadthrottle.doctor.running import CHECKS as RUNNING
from chadthrottle.errors import ChadthrottleError, NotPermittedError
from chadthrottle.model import Direction, Engine
from chadthrottle.units import format_rate

if TYPE_CHECKING:  # netlink is imported when it is needed
    from chadthrottle.doctor.canary import Flight

__all__ = ["CHECKS"]

_FLIGHT = "the canary's flight"
_NAMES = {Direction.UP: "uploads", Direction.DOWN: "downloads"}
_BETTER = "Downloads are policed instead: packets above the rate are dropped, and sent again. Limits hold all the same."


def _queue(_: Context) -> Outcome:
    from chadthrottle.bpf.features import supported
    from chadthrottle.doctor.queue_trial import first_missing

    try:
        tcx = supported("tcx")
    except BpfError:
        tcx = True  # the finding of whoever may not even ask
    missing = first_missing(clsact=not tcx)
    if missing is None:
        by = "tcx" if tcx else "clsact, for this kernel has no tcx"
        return ok(f"IFB, HTB and tbf can be made, with filters by {by}")
    if not missing.piece:
        return failed(
            "no network namespace of our own can be made",
            tried="unshare(CLONE_NEWNET) in a child",
            came_back=missing.message,
            means="Trials with traffic, `chadthrottle verify --own` and the demo need one; limits do not.",
            cure=("Run it with sudo, outside of a container.",),
            blocks=frozenset({Need.NETWORK}),
            permission=missing.exit_code == NotPermittedError.exit_code,
        )
    return warning(
        f"no queue: this machine makes no {missing.piece}",
        tried="make IFB, HTB, its classes and tbf in a network namespace of our own",
        came_back=missing.message,
        means=_BETTER,
        cure=(
            f"sudo modprobe {missing.module}",
            f"Or take a kernel with {missing.config}; Debian and Ubuntu have it in linux-modules-extra or the image.",
        ),
    )._replace(blocks=frozenset({Need.QUEUE}))


def _flight(context: Context) -> "Flight":
    from chadthrottle.doctor.canary import fly

    if _FLIGHT not in context.shared:
        context.shared[_FLIGHT] = fly()
    flown: Flight = context.shared[_FLIGHT]
    return flown


def _limit(context: Context) -> Outcome:
    """The whole of it: everything that throttle does, in a cgroup of our own."""
    if context.only_root:
        return unknown("not tried: only the root cgroup was asked for")
    limited_by = _limited_by(context)
    if limited_by:
        return unknown(
            f"not tried: doctor itself runs under the limit of {limited_by}",
            means="A transfer of its own would be held by that limit, too.",
            cure=("Run doctor from another shell.",),
        )
    flight = _flight(context)
    error = flight.failed
    if error is None:
        return ok(f"a process of doctor's was limited by {flight.attached_by}, as throttle does it")
    message = error.message if isinstance(error, ChadthrottleError) else f"{errno_name(error.errno or 0)}: {error}"
    return failed(
        f"no program could be limited: {flight.at}",
        tried=f"limit a process of doctor's in a cgroup of its own; {flight.at}",
        came_back=message,
        means="`chadthrottle throttle` would fail in the same way.",
        cure=(
            (error.hint if isinstance(error, ChadthrottleError) else None)
            or "The findings above tell what is there; if all of them are fine: sudo chadthrottle report FILE",
        ),
        permission=isinstance(error, (NotPermittedError, PermissionError)),
    )


def _children(context: Context) -> Outcome:
    skipped = _grounded(context)
    if skipped:
        return skipped
    if _flight(context).follows_children:
        return ok("a child of a limited process is limited from its birth, and forgotten with its death")
    return failed(
        "a child of a limited process was not noticed",
        tried="fork and kill a child of a limited process of doctor's",
        came_back="it was not among the limit's processes, or stayed there",
        means="The tracepoints sched_process_fork and sched_process_exit do not run our programs: children escape.",
        cure=("Limit children by themselves; and please report it: sudo chadthrottle report FILE",),
    )


def _transfer(context: Context, direction: Direction) -> Outcome:
    skipped = _grounded(context)
    if skipped:
        return skipped
    from chadthrottle.doctor.canary import ASKED_BYTES_PER_S, LEAST, MOST

    flight = _flight(context)
    name = _NAMES[direction]
    if direction in flight.unmeasured:
        return unknown(f"{name} were not measured", tried="1 MB under a limit", came_back=flight.unmeasured[direction])
    asked, achieved = ASKED_BYTES_PER_S, flight.achieved[direction]
    ratio = flight.ratio(direction)
    queued = flight.engine.get(direction) is Engine.QUEUE
    means = {Direction.UP: "paced"}.get(direction, "policed") if not queued else "queued"
    told = f"asked {format_rate(asked)}, achieved {achieved / 1e6:.2f} MB/s ({ratio:.0%}), {means}"
    if LEAST <= ratio <= MOST:
        if direction is Direction.DOWN and not queued and context.status_of("CT-ENF-01") is Status.OK:
            return warning(
                f"{told}, although a queue can be made",
                tried="limit a process of doctor's with --engine auto",
                came_back="; ".join(flight.notes) or "policed",
                means=_BETTER,
                cure=("sudo chadthrottle throttle PID RATE --engine queue", "It says what it lacks."),
            )
        return ok(told)
    return warning(
        told,
        tried=f"1 MB of {name} at {format_rate(asked)} between two network namespaces",
        came_back=f"{achieved} bytes/s, after three attempts",
        means="Too much: the limit does not hold. Too little: it holds too much, or this machine is busy just now.",
        cure=(
            "Again when the machine is quiet: sudo chadthrottle doctor",
            "Of a limit that is there: sudo chadthrottle verify PID",
        ),
    )


def _grounded(context: Context) -> Outcome | None:
    """There was no flight: for a reason of its own, or another finding's."""
    status = context.status_of("CT-ENF-02")
    if status is Status.OK:
        return None
    if status is Status.FAILED:
        return unknown("not tried", because="CT-ENF-02")
    return unknown("not tried: no limit of our own was set, see CT-ENF-02")


def _limited_by(context: Context) -> str:
    """The name and PID of the limit that this very process is under."""
    import os

    from chadthrottle.abi import ThrottleProcess
    from chadthrottle.enforce.rules import all_rules
    from chadthrottle.limits.meters import hooks_in_place

    try:
        with hooks_in_place(context.base) as hooks:
            value = None if hooks is None else hooks.processes.lookup(os.getpid().to_bytes(4, "little"))
            if hooks is None or value is None:
                return ""
            number = ThrottleProcess.from_buffer_copy(value).rule
            return next((f"{each.name} (PID {each.leader.pid})" for each in all_rules(hooks) if each.id == number), "")
    except (ChadthrottleError, OSError):  # what is pinned has findings of its own
        return ""


_FLYING = frozenset(Need) - {Need.TARGET, Need.TARGET_CGROUP, Need.ROOT_CGROUP, Need.QUEUE}

CHECKS: tuple[Check, ...] = (
    Check("CT-ENF-01", Group.ENFORCEMENT, "queues", _queue, frozenset({Need.NETWORK})),
    Check("CT-ENF-02", Group.ENFORCEMENT, "a limit of our own", _limit, _FLYING),
    Check("CT-ENF-03", Group.ENFORCEMENT, "children", _children, _FLYING),
    Check("CT-ENF-04", Group.ENFORCEMENT, "1 MB up", lambda context: _transfer(context, Direction.UP), _FLYING),
    Check("CT-ENF-05", Group.ENFORCEMENT, "1 MB down", lambda context: _transfer(context, Direction.DOWN), _FLYING),
    *RUNNING,
)
