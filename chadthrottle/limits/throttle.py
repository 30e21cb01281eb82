"""Limit a process that is running."""

from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from chadthrottle import cgroup
from chadthrottle.abi import ThrottleDirection, ThrottleScope
from chadthrottle.bpf.links import Link
from chadthrottle.enforce import hooks as hooks_module
from chadthrottle.enforce import rules
from chadthrottle.enforce.hooks import Hooks
from chadthrottle.enforce.membership import inheriting, members
from chadthrottle.errors import UsageError
from chadthrottle.limits.state import state, where
from chadthrottle.model import AttachPoint, RuleSpec, RuleState, Scope
from chadthrottle.pins import Pins
from chadthrottle.procs import Identity, NoSuchProcessError

__all__ = ["Throttled", "set_limit", "throttle"]


class Throttled(NamedTuple):
    """What was done."""

    state: RuleState
    processes: int
    """How many processes the rule has."""
    changed: bool
    """The rule was there already and was changed."""
    notes: tuple[str, ...]


def throttle(spec: RuleSpec, base: Path | None = None) -> Throttled:
    """Set a limit; in a rule that is there, what is not named stays as it is.

    `base` is the directory of the pins, for tests. Raises AttachError, VerifierError, KernelCannotError,
    NotPermittedError, NoSuchProcessError, UsageError: nothing is changed then.
    """
    done, _ = set_limit(spec, base, holder=None)
    return done


def set_limit(spec: RuleSpec, base: Path | None, *, holder: Identity | None) -> tuple[Throttled, list[Link]]:
    """As `throttle`. With `holder`, a new limit that ends with that process, which has to keep the links."""
    pins = hooks_module.pins_of_this_version(base)
    with pins.lock(create=True):
        notes = _clear_other_versions(pins)
        pins.sweep()
        if pins.current and not hooks_module.are_attached(pins):  # who held them was killed
            hooks_module.disarm(pins, pins.version)
            pins.remove(pins.version)
        if not pins.current:
            place = cgroup.attach_point(str(spec.at), spec.process.pid)
            with hooks_module.install(pins, place, spec.attach, pinned=holder is None) as hooks:
                try:
                    links = hooks_module.open_unpinned(pins)
                    return _throttle(spec, hooks, notes, holder), list(links.values())
                except BaseException:
                    pins.remove(pins.version)
                    raise
        with hooks_module.open_pinned(pins) as hooks, ExitStack() as undo:
            _require_same_place(spec, hooks)
            notes += rules.sweep(hooks)
            links = {}
            if holder is None:
                hooks_module.pin_unpinned(pins)
            else:
                links = hooks_module.open_unpinned(pins)
                for link in links.values():
                    undo.callback(link.close)
            done = _throttle(spec, hooks, notes, holder)
            undo.pop_all()
            return done, list(links.values())


def _throttle(spec: RuleSpec, hooks: Hooks, notes: tuple[str, ...], holder: Identity | None) -> Throttled:
    at = where(hooks)
    leader = Identity(spec.process.pid, spec.process.start_time_ticks)
    present = next((rule for rule in rules.all_rules(hooks) if rule.leader == leader), None)
    if present is None:
        rule_id, held = rules.create(
            hooks,
            leader,
            spec.process.name,
            _terms(spec),
            inherit=spec.children,
            holder=holder,
            engine=spec.engine,
        )
    elif holder is not None:
        raise UsageError(
            f"process {leader.pid} has a limit already, which would end with this command",
            hint=f"Leave out --foreground, or first: sudo chadthrottle release {leader.pid}",
        )
    else:
        rule_id = present.id
        held = rules.change(hooks, present, _merged(spec, present), spec.engine)
    with rules.undone_by(lambda: _take_back(hooks, rule_id, present)):
        made = next((rule for rule in rules.all_rules(hooks) if rule.id == rule_id), None)
        count = len(members(hooks, rule_id))
        children = rule_id in inheriting(hooks)
        if made is None:
            raise NoSuchProcessError(f"{leader} has ended, and its limit with it")
        return Throttled(state(made, hooks, at, children=children), count, present is not None, (*notes, *held.notes))


def _take_back(hooks: Hooks, rule_id: int, before: rules.Rule | None) -> None:
    if before is None:
        rules.end(hooks, rule_id)
    else:
        rules.change(hooks, before, _terms_of(before))


def _terms(spec: RuleSpec) -> rules.Terms:
    return rules.Terms(
        spec.rate_up_bytes_per_s or 0,
        spec.rate_down_bytes_per_s or 0,
        rules.expiry_in(spec.duration_s),
        ThrottleScope[(spec.scope or Scope.ALL).name],
    )


def _terms_of(rule: rules.Rule) -> rules.Terms:
    up, down = (rule.rate(direction) for direction in ThrottleDirection)
    return rules.Terms(up, down, rule.rule.expires_ns, rule.scope)


def _merged(spec: RuleSpec, present: rules.Rule) -> rules.Terms:
    """What is not named stays, the end of a timed rule too."""
    before, asked = _terms_of(present), _terms(spec)
    return rules.Terms(
        before.up_bytes_per_s if spec.rate_up_bytes_per_s is None else asked.up_bytes_per_s,
        before.down_bytes_per_s if spec.rate_down_bytes_per_s is None else asked.down_bytes_per_s,
        before.expires_ns if spec.duration_s is None else asked.expires_ns,
        before.scope if spec.scope is None else asked.scope,
    )


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
    if spec.attach not in ("auto", hooks.attached_by):
        raise UsageError(
            f"the hooks of the limits there are attached by {hooks.attached_by}, not by {spec.attach}",
            hint="sudo chadthrottle release --all first, or leave out --attach.",
        )
    if spec.at == AttachPoint.ROOT and where(hooks) == AttachPoint.ROOT:
        return
    wanted = cgroup.attach_point(str(spec.at), spec.process.pid)
    if wanted.stat().st_ino != hooks.cgroup_id:
        raise UsageError(
            f"the hooks of the limits there are sit on {where(hooks)}, not on {wanted}",
            hint="sudo chadthrottle release --all first, or leave out --at.",
        )
