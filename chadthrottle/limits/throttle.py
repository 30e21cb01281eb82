"""Limit a process that is running."""

from dataclasses import dataclass
from pathlib import Path

from chadthrottle import cgroup
from chadthrottle.abi import ThrottleDirection
from chadthrottle.enforce import hooks as hooks_module
from chadthrottle.enforce import rules
from chadthrottle.enforce.hooks import Hooks
from chadthrottle.errors import UsageError
from chadthrottle.limits.state import state, where
from chadthrottle.model import AttachPoint, Direction, RuleSpec, RuleState
from chadthrottle.pins import Pins
from chadthrottle.procs import Identity, NoSuchProcessError

__all__ = ["Throttled", "throttle"]

_DIRECTIONS = {Direction.UP: ThrottleDirection.UP, Direction.DOWN: ThrottleDirection.DOWN}


@dataclass(frozen=True, slots=True)
class Throttled:
    """What was done."""

    state: RuleState
    processes: int
    """How many processes the rule has."""
    changed: bool
    """The rule was there already and was changed."""
    notes: tuple[str, ...]


def throttle(spec: RuleSpec, base: Path | None = None) -> Throttled:
    """Set a limit; in a rule that is there, directions that are not named stay as they are.

    `base` is the directory of the pins, for tests. Raises AttachError, VerifierError, KernelCannotError,
    NotPermittedError, NoSuchProcessError, UsageError: nothing is changed then.
    """
    pins = hooks_module.pins_of_this_version(base)
    with pins.lock(create=True):
        notes = _clear_other_versions(pins)
        pins.sweep()
        if not pins.current:
            place = cgroup.attach_point(str(spec.at), spec.process.pid)
            with hooks_module.install(pins, place) as hooks:
                try:
                    return _throttle(spec, hooks, notes)
                except BaseException:
                    pins.remove(pins.version)
                    raise
        with hooks_module.open_pinned(pins) as hooks:
            _require_same_place(spec, hooks)
            rules.sweep(hooks)
            return _throttle(spec, hooks, notes)


def _throttle(spec: RuleSpec, hooks: Hooks, notes: tuple[str, ...]) -> Throttled:
    at = where(hooks)
    leader = Identity(spec.process.pid, spec.process.start_time_ticks)
    present = next((rule for rule in rules.all_rules(hooks) if rule.leader == leader), None)
    if present is None:
        rule_id = rules.create(
            hooks,
            leader,
            spec.process.name,
            (spec.rate_up_bytes_per_s or 0, spec.rate_down_bytes_per_s or 0),
            inherit=spec.children,
            duration_s=spec.duration_s,
        )
    else:
        rule_id = present.id
        up, down = (_merged(spec, direction, present) for direction in Direction)
        # What is not named stays, the end of a timed rule too.
        expires_ns = present.rule.expires_ns if spec.duration_s is None else rules.expiry_in(spec.duration_s)
        rules.set_rates(hooks, present, (up, down), expires_ns)
    with rules.undone_by(lambda: _take_back(hooks, rule_id, present)):
        made = next((rule for rule in rules.all_rules(hooks) if rule.id == rule_id), None)
        count = len(rules.members(hooks, rule_id))
        children = rule_id in rules.inheriting(hooks)
    if made is None:
        raise NoSuchProcessError(f"{leader} has ended, and its limit with it")
    return Throttled(state(made, at, children=children), count, present is not None, notes)


def _take_back(hooks: Hooks, rule_id: int, before: rules.Rule | None) -> None:
    if before is None:
        rules.end(hooks, rule_id)
    else:
        up, down = (before.rate(direction) for direction in ThrottleDirection)
        rules.set_rates(hooks, before, (up, down), before.rule.expires_ns)


def _merged(spec: RuleSpec, direction: Direction, present: rules.Rule) -> int:
    asked = spec.rate_bytes_per_s(direction)
    return present.rate(_DIRECTIONS[direction]) if asked is None else asked


def _clear_other_versions(pins: Pins) -> tuple[str, ...]:
    """Another version of chadthrottle left limits: this one cannot speak to its programs, so they end."""
    others = [version for version in pins.versions() if version != pins.version]
    for version in others:
        hooks_module.disarm(pins, version)
        pins.remove(version)
    if not others:
        return ()
    return ("The limits set by another version of chadthrottle were removed: set them again.",)


def _require_same_place(spec: RuleSpec, hooks: Hooks) -> None:
    """One set of hooks serves all rules. Elsewhere they would charge packets twice."""
    if spec.at == AttachPoint.ROOT and where(hooks) == AttachPoint.ROOT:
        return
    wanted = cgroup.attach_point(str(spec.at), spec.process.pid)
    if wanted.stat().st_ino != hooks.cgroup_id:
        raise UsageError(
            f"the hooks of the limits there are sit on {where(hooks)}, not on {wanted}",
            hint="sudo chadthrottle release --all first, or leave out --at.",
        )
