"""Tell what is limited."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from chadthrottle.abi import ThrottleWhy
from chadthrottle.enforce import hooks as hooks_module
from chadthrottle.enforce import rules
from chadthrottle.enforce.membership import inheriting
from chadthrottle.enforce.queue import QueueReport, report, sweep
from chadthrottle.enforce.rules import Rule
from chadthrottle.limits.state import state, where
from chadthrottle.model import RuleState

__all__ = ["Listing", "listing"]


class Listing(NamedTuple):
    """All rules, and what else is to be said."""

    rules: tuple[RuleState, ...]
    notes: tuple[str, ...]


def listing(base: Path | None = None, *, repair: bool = False) -> Listing:
    """The rules in the kernel. Changes nothing, unless with `repair` queues that somebody broke, or devices that have
    come since. Raises KernelCannotError, NotPermittedError.
    """
    pins = hooks_module.pins_of_this_version(base)
    with pins.lock(create=False) as there:
        if not there:
            return Listing((), ())
        notes = [
            "Limits of another version of chadthrottle are in force: the next throttle replaces them."
            for version in pins.versions()
            if version != pins.version
        ]
        if pins.unfinished():
            notes.append("A command was killed at work: the next throttle or release removes what it left.")
        if not pins.current:
            return Listing((), tuple(notes))
        if not hooks_module.are_attached(pins):
            notes.append("A --foreground command was killed: the next throttle or release removes what it left.")
            return Listing((), tuple(notes))
        with hooks_module.open_pinned(pins) as hooks:
            at = where(hooks)
            with_children = inheriting(hooks)
            found = [rule for rule in rules.all_rules(hooks) if not rule.expired]
            notes += [
                f"{rule.meter.untracked} children of {rule.leader.pid} found no room and are not limited."
                for rule in found
                if rule.meter.untracked
            ]
            if found and not hooks.follows_passed_sockets:
                notes.append(
                    "A socket that one process passes to another stays with the first: following it takes Linux 6.3."
                )
            queues = report(hooks)
            if repair and (queues.broken or queues.uncovered):
                notes += sweep(hooks)
                queues = report(hooks)
            notes += _about_queues(found, queues)
            states = tuple(state(rule, hooks, at, children=rule.id in with_children, queues=queues) for rule in found)
        if not found:
            notes.append("Nothing is limited, but idle hooks are in place: chadthrottle release --all removes them.")
        return Listing(states, tuple(notes))


# What kept `auto` from queueing; limits.throttle said more when the limit was set.
_WHY = {
    ThrottleWhy.KERNEL: "this kernel, or this machine's set-up, made no queue when the limit was set",
    ThrottleWhy.PERMISSION: "a queue was not permitted when the limit was set",
    ThrottleWhy.ROOM: "too many limits were queued when it was set",
    ThrottleWhy.UNFINISHED: "the command that set the limit was killed",
    ThrottleWhy.SLOW: "at so low a rate a packet would wait for a second",
}


def _about_queues(found: list[Rule], queues: QueueReport) -> Iterator[str]:
    for rule in found:
        why = _WHY.get(ThrottleWhy(rule.rule.why))
        if why:
            yield f"Downloads of PID {rule.leader.pid} are policed, not queued: {why}."
    if any(rule.queued for rule in found):
        if queues.broken:
            yield (
                "Somebody removed the queue's device chadthrottle (limits are policed meanwhile) or set it down "
                "(downloads stand still): the next throttle, release or watch repairs it."
            )
        if queues.uncovered:
            yield (
                f"Not queued but policed until the next throttle, release or watch: what arrives on "
                f"{', '.join(queues.uncovered)}."
            )
