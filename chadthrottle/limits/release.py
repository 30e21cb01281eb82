"""End limits."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from chadthrottle.abi import ThrottleDirection
from chadthrottle.enforce import hooks as hooks_module
from chadthrottle.enforce import rules
from chadthrottle.enforce.hooks import Hooks
from chadthrottle.enforce.membership import holder_of
from chadthrottle.model import Direction
from chadthrottle.pins import Pins
from chadthrottle.procs import Identity, NoSuchProcessError

__all__ = ["Released", "no_rule", "release", "release_held", "release_identity"]


class Released(NamedTuple):
    """What was done."""

    pids: tuple[int, ...]
    """Whose rules ended or changed."""
    hooks_removed: bool
    """Nothing of ours is in the kernel any more."""
    notes: tuple[str, ...] = ()


def release(
    pids: Iterable[int] | None, directions: frozenset[Direction] = frozenset(Direction), base: Path | None = None
) -> Released:
    """End the limits of these processes in these directions; with None, of all, and remove everything.

    With the last rule go the hooks: links, maps and pins. Raises NoSuchProcessError for a PID without a
    rule, before anything is changed.
    """
    pins = hooks_module.pins_of_this_version(base)
    done: list[int] = []
    notes: tuple[str, ...] = ()
    with pins.lock(create=False) as there:
        if not there:
            _require_none(pids)
            return Released((), hooks_removed=True)
        pins.sweep()
        if _is_open(pins) and not (pids is None and hooks_module.is_incomplete(pins)):
            with hooks_module.open_pinned(pins) as hooks:
                done = _release(hooks, pids, directions)
                notes = rules.sweep(hooks)
                idle = not any(rules.all_rules(hooks))
        else:
            _require_none(pids)
            idle = True
        if idle:
            for version in pins.versions():
                hooks_module.disarm(pins, version)
            pins.remove_all()
    return Released(tuple(done), hooks_removed=idle, notes=notes)


def release_identity(identity: Identity, base: Path | None = None) -> None:
    """End the rule of exactly this process, if it has one still, and remove the hooks if nobody needs them."""
    _end_where(lambda _, rule: rule.leader == identity, base)


def release_held(holder: Identity, base: Path | None = None) -> None:
    """End the rules that this process holds, or held, and remove the hooks if nobody needs them."""
    _end_where(lambda hooks, rule: holder_of(hooks, rule.id) == holder, base)


def _end_where(chosen: Callable[[Hooks, rules.Rule], bool], base: Path | None) -> None:
    pins = hooks_module.pins_of_this_version(base)
    with pins.lock(create=False) as there:
        if not there:
            return
        pins.sweep()  # it may have been killed before its pins were complete
        if not pins.current:
            return
        idle = True
        if _is_open(pins):
            with hooks_module.open_pinned(pins) as hooks:
                for rule in rules.all_rules(hooks):
                    if chosen(hooks, rule):
                        rules.end(hooks, rule.id)
                rules.sweep(hooks)
                idle = not any(rules.all_rules(hooks))
        else:
            hooks_module.disarm(pins, pins.version)
        if idle:
            pins.remove_all()


def _is_open(pins: Pins) -> bool:
    return pins.current and hooks_module.are_attached(pins)


def _release(hooks: Hooks, pids: Iterable[int] | None, directions: frozenset[Direction]) -> list[int]:
    # Two of one number: the first one's process has ended, its children have not, and the number was used again.
    present: dict[int, list[rules.Rule]] = {}
    for rule in rules.all_rules(hooks):
        present.setdefault(rule.leader.pid, []).append(rule)
    chosen = list(present) if pids is None else list(dict.fromkeys(pids))
    for pid in chosen:
        if pid not in present:
            raise no_rule(pid, present)
    for rule in (rule for pid in chosen for rule in present[pid]):
        up, down = (
            rule.rate(ThrottleDirection[direction.name]) if direction not in directions else 0
            for direction in Direction
        )
        if up or down:
            rules.change(hooks, rule, rules.Terms(up, down, rule.rule.expires_ns, rule.scope))
        else:
            rules.end(hooks, rule.id)
    return chosen


def _require_none(pids: Iterable[int] | None) -> None:
    for pid in pids or ():
        raise no_rule(pid, ())


def no_rule(pid: int, present: Iterable[int]) -> NoSuchProcessError:
    """The error for a PID without a rule; `present` have one."""
    limited = ", ".join(map(str, present)) or "none"
    return NoSuchProcessError(f"process {pid} has no limit of its own", hint=f"Limited processes: {limited}.")
