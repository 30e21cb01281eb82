"""All queues, for all rules. The caller holds the lock.

netlink is imported by place.py, and that when there is or shall be a queue: it costs as much as all the rest.
"""

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from chadthrottle.abi import THROTTLE_MAX_QUEUES, ThrottleDirection, ThrottleRule, ThrottleWhy
from chadthrottle.bpf.errors import BpfError
from chadthrottle.bpf.maps import Map
from chadthrottle.enforce.namespaces import NOWHERE, Namespaces, namespaces_by_inode
from chadthrottle.enforce.queue import records
from chadthrottle.enforce.queue.shape import QueuedRate
from chadthrottle.errors import ChadthrottleError, KernelCannotError, NotPermittedError
from chadthrottle.model import Engine

if TYPE_CHECKING:
    from chadthrottle.enforce.hooks import Hooks
    from chadthrottle.enforce.queue.place import Place

_Outcome = TypeVar("_Outcome")

__all__ = ["NO_QUEUES", "Held", "QueueReport", "hold", "remove_recorded", "report", "sweep"]

AUTO = frozenset({ThrottleDirection.DOWN})
"""What `--engine auto` queues: docs/adr/0005-downloads-are-queued.md has the figures."""

# Three packets wait for a second there, and a sender's timeout is some times what packets wait: at 1000 bytes/s a
# connection was silent for 6 s after its limit was gone. Policed it is back within 0.6 s.
_LEAST_BYTES_PER_S = 4000


class Held(NamedTuple):
    """How a rule is to be held, for throttle_rule."""

    number: int = 0
    directions: frozenset[ThrottleDirection] = frozenset()
    why: ThrottleWhy = ThrottleWhy.ASKED
    notes: tuple[str, ...] = ()

    def apply(self, rule: ThrottleRule) -> None:
        rule.queue, rule.why = self.number, self.why
        rule.queued = sum(1 << direction for direction in self.directions)


class QueueReport(NamedTuple):
    """What list says of all queues."""

    dropped: Mapping[tuple[int, ThrottleDirection], int]
    """By a rule's number and direction: packets that found no room."""
    uncovered: tuple[str, ...]
    """Devices whose packets are policed."""
    broken: bool
    """A queue's device is not as we left it."""


NO_QUEUES = QueueReport({}, (), broken=False)


def hold(
    hooks: "Hooks", engine: Engine, rates: Mapping[ThrottleDirection, int], before: ThrottleRule, places: Namespaces
) -> Held:
    """Make queues ready for a rule with these rates (0: not limited), in its namespaces and wherever there is one.

    `before` is the rule as it stands in the kernel; with AUTO one that was not to be queued stays so. The rule's
    entry is the caller's to write: until then nothing is queued. What cannot be queued is policed, and said;
    with QUEUE it is an error: KernelCannotError, NotPermittedError.
    """
    directions = _wanted(engine, rates, before)
    if not directions:
        return Held()
    if engine is Engine.AUTO and _is_too_slow(directions, rates, before):
        note = "Downloads are policed, not queued: below 4 kB/s a packet would wait for a second and more."
        return Held(why=ThrottleWhy.SLOW, notes=(note,))
    number = int(before.queue) or _free_number(hooks)
    if not number:
        if engine is Engine.QUEUE:
            raise KernelCannotError(_room_message(), hint="chadthrottle list shows them; release one.")
        return Held(why=ThrottleWhy.ROOM, notes=(f"Downloads are policed: {_room_message()}.",))
    wanted = [QueuedRate(number, direction, rates[direction]) for direction in sorted(directions)]
    others = [each for each in _rates(hooks) if each.number != number]
    outcomes = _everywhere(hooks, places, lambda place: _ensure_or_restore(hooks, place, [*others, *wanted], {number}))
    failures = [each for each in outcomes if isinstance(each, ChadthrottleError)]
    skipped = [name for each in outcomes if not isinstance(each, ChadthrottleError) for name in each]
    if failures and len(failures) == len(outcomes):
        if engine is Engine.QUEUE:
            raise failures[0]
        why = ThrottleWhy.PERMISSION if isinstance(failures[0], NotPermittedError) else ThrottleWhy.KERNEL
        return Held(why=why, notes=(f"Downloads are policed, not queued: {failures[0].message}.",))
    notes = [f"In one of its network namespaces it is policed, not queued: {each.message}." for each in failures]
    notes += [f"Not queued on {each}." for each in skipped]
    return Held(number, directions, notes=tuple(notes))


def sweep(hooks: "Hooks") -> tuple[str, ...]:
    """Remove what no rule needs, repair what somebody broke, attach to devices that have come.

    A queue that cannot be repaired is removed: its rules are policed then, and that is what it returns, in sentences.
    """
    if not records.read(hooks.queues):
        return ()
    rates = _rates(hooks)
    if not rates:
        _remove_all(hooks.queues, hooks.pins.directory / "links")
        return ()
    outcomes = _everywhere(hooks, NOWHERE, lambda place: _ensure_or_restore(hooks, place, rates, ()))
    return tuple(
        f"A queue cannot be repaired, and what it held is policed: {each.message}."
        for each in outcomes
        if isinstance(each, ChadthrottleError)
    )


def remove_recorded(directory: Path) -> None:
    """Remove the queues that the pins in `directory` tell of. Nothing is pinned there: nothing to do. Raises BpfError,
    NotPermittedError, KernelCannotError.
    """
    try:
        opened = Map.open_pinned(directory / "maps" / "queues")
    except BpfError as error:
        if error.errno == errno.ENOENT:
            return
        raise
    with opened as queues:
        if records.read(queues):
            _remove_all(queues, directory / "links")


def report(hooks: "Hooks") -> QueueReport:
    """How the queues are doing. Changes no queue; records of namespaces that are gone go."""
    dropped: dict[tuple[int, ThrottleDirection], int] = {}
    uncovered: list[str] = []
    broken = [False]

    def look(place: "Place") -> None:
        uncovered.extend(place.uncovered())
        broken[0] |= place.is_broken()
        for number, direction, packets in place.drops():
            dropped[number, direction] = dropped.get((number, direction), 0) + packets

    if records.read(hooks.queues):
        for outcome in _everywhere(hooks, NOWHERE, look):
            if isinstance(outcome, ChadthrottleError):
                raise outcome
    elif _rates(hooks):
        broken[0] = True  # it could not be repaired
    return QueueReport(dropped, tuple(sorted(set(uncovered))), broken[0])


def _wanted(
    engine: Engine, rates: Mapping[ThrottleDirection, int], before: ThrottleRule
) -> frozenset[ThrottleDirection]:
    limited = {direction for direction, rate in rates.items() if rate}
    if engine is Engine.CGROUP:
        return frozenset()
    if engine is Engine.QUEUE:
        return frozenset(limited)
    if before.armed_ns and before.why == ThrottleWhy.ASKED:  # a rule that is there keeps its engines
        limited_before = {direction for direction in limited if before.rate[direction].bytes_per_s}
        kept = {direction for direction in limited_before if before.queued & 1 << direction}
        return frozenset(kept | (AUTO & (limited - limited_before)))
    return AUTO & limited


def _is_too_slow(
    directions: frozenset[ThrottleDirection], rates: Mapping[ThrottleDirection, int], before: ThrottleRule
) -> bool:
    """Downloads alone, and at a new rate: one that is in a queue at this rate was asked to be."""
    down = ThrottleDirection.DOWN
    is_kept = before.queued & 1 << down and before.rate[down].bytes_per_s == rates[down]
    return directions == AUTO and rates[down] < _LEAST_BYTES_PER_S and not is_kept


def _room_message() -> str:
    return f"{THROTTLE_MAX_QUEUES} rules are queued already"


def _free_number(hooks: "Hooks") -> int:
    """0: there is none."""
    taken = {rule.queue for rule in _rules(hooks)}
    return next((number for number in range(1, THROTTLE_MAX_QUEUES + 1) if number not in taken), 0)


def _rules(hooks: "Hooks") -> list[ThrottleRule]:
    return [ThrottleRule.from_buffer_copy(value) for _, value in list(hooks.rules.items())]


def _rates(hooks: "Hooks") -> list[QueuedRate]:
    """Of all queued rules."""
    return [
        QueuedRate(rule.queue, direction, rule.rate[direction].bytes_per_s)
        for rule in _rules(hooks)
        for direction in ThrottleDirection
        if rule.queue and rule.queued & 1 << direction and rule.rate[direction].bytes_per_s
    ]


def _ensure(hooks: "Hooks", place: "Place", rates: Sequence[QueuedRate], changed: Iterable[int]) -> list[str]:
    """Removed again if it cannot be made; what was skipped otherwise."""
    from chadthrottle.enforce.queue.place import LENT

    try:
        place.ensure(rates, {name: getattr(hooks, name) for name in LENT}, set(changed))
    except BaseException as error:
        try:
            place.remove()
        except (ChadthrottleError, OSError) as second:
            error.add_note(f"and removing the queue: {second}")
        raise
    return place.skipped


def _ensure_or_restore(
    hooks: "Hooks", place: "Place", rates: Sequence[QueuedRate], changed: Iterable[int]
) -> list[str]:
    """As `_ensure`. If that fails and a queue was there, it is made again for the rules as they stand."""
    was_there = any(each.namespace == place.namespace for each in records.read(hooks.queues))
    try:
        return _ensure(hooks, place, rates, changed)
    except BaseException as error:
        before = _rates(hooks)
        if was_there and before:
            try:
                _ensure(hooks, place, before, ())
            except (ChadthrottleError, OSError) as second:
                error.add_note(f"and making the queue again for the others: {second}")
        raise


def _everywhere(
    hooks: "Hooks", places: Namespaces, action: Callable[["Place"], _Outcome]
) -> list[_Outcome | ChadthrottleError]:
    """What `action` returned or raised (ChadthrottleError) in each of `places`, and where there is a queue already."""
    from chadthrottle.enforce.queue.place import Place

    outcomes: list[_Outcome | ChadthrottleError] = []

    def here() -> None:
        try:
            with Place(hooks.queues, hooks.pins.directory / "links") as place:
                outcomes.append(action(place))
        except ChadthrottleError as error:
            outcomes.append(error)

    places.each(here)
    known = {each.namespace for each in records.read(hooks.queues)} - set(places.inodes)
    with namespaces_by_inode(known) as others:
        others.each(here)
        _forget_lost(hooks.queues, hooks.pins.directory / "links", known - set(others.inodes))
    return outcomes


def _remove_all(queues: Map, links: Path) -> None:
    from chadthrottle.enforce.queue.place import Place

    def here() -> None:
        with Place(queues, links) as place:
            place.remove()

    known = {each.namespace for each in records.read(queues)}
    with namespaces_by_inode(known) as found:
        found.each(here)
        _forget_lost(queues, links, known - set(found.inodes))


def _forget_lost(queues: Map, links: Path, namespaces: Iterable[int]) -> None:
    """Namespaces that are gone, and their devices with them."""
    lost = set(namespaces)
    for record in records.read(queues):
        if record.namespace in lost:
            (links / record.pin_name).unlink(missing_ok=True)
            records.forget(queues, record)
