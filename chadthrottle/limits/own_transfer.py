"""A transfer of our own under somebody's rule: what its limit lets through when there is enough to send.

    near    a guest in the rule: its sockets are tagged, paced, queued and policed as the program's are
      ║     a private network (enforce/private_network.py)
    far     in no rule; takes what comes, and gives without end

The guest shares the limit with the program while it lasts; nothing else of the program or of others is touched.
Each direction is measured by itself: the acknowledgements of the one would use up a much smaller other.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from chadthrottle.abi import ThrottleScope
from chadthrottle.enforce import guests
from chadthrottle.enforce.hooks import Hooks
from chadthrottle.enforce.namespaces import namespaces_of
from chadthrottle.enforce.private_network import Inhabitant, private_network
from chadthrottle.enforce.queue import hold, sweep
from chadthrottle.enforce.rules import all_rules
from chadthrottle.errors import ChadthrottleError
from chadthrottle.limits.meters import INDEX, Sample, compare, hooks_in_place, read_meters
from chadthrottle.limits.state import where
from chadthrottle.limits.transfer_end import End
from chadthrottle.limits.verdict import LOWEST, Measured, MeasuredBy
from chadthrottle.model import AttachPoint, Direction, Engine
from chadthrottle.procs import Identity, read_stat, require_initial_namespaces

__all__ = ["OwnTransfer", "Plan", "own_transfer", "plan"]

# Nobody else is in these namespaces, so any address will do: of the internet (TEST-NET-2, RFC 5737, which no rule
# takes for local), and a local one.
_NEAR, _FAR = ("198.51.100.1", "10.0.0.1"), ("198.51.100.2", "10.0.0.2")
_PREFIX = 24

_FLOWS = 4
"""One alone is too easily thrown out of step by a policer, and then measures itself (docs/cli.md has figures)."""

_SEGMENTS, _SHORTEST_S, _LONGEST_S = 200, 2.0, 10.0
_SMALLEST_MSS, _LARGEST_MSS = 100, 1460
_HEADERS = 40  # of IPv4 and TCP; TCP_MAXSEG has the options in it
_UNSEEN = 2
"""So many times what the rule has counted cannot have come through it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to measure a rate."""

    mss: int
    """TCP_MAXSEG, in bytes: smaller segments for slow rates, or a few more or less would be the result."""
    warm_up_s: float
    """The burst that a rule has in hand, and TCP's start, are no measure of its rate."""
    seconds: float


def plan(bytes_per_s: int) -> Plan:
    """For a limit of so many bytes/s: some 200 segments if 10 s are enough for them, and 2 s at least."""
    mss = max(_SMALLEST_MSS, min(_LARGEST_MSS, int(bytes_per_s * _SHORTEST_S / _SEGMENTS) - _HEADERS))
    return Plan(mss, 1.0, max(_SHORTEST_S, min(_LONGEST_S, _SEGMENTS * (mss + _HEADERS) / bytes_per_s)))


class OwnTransfer:
    """The guest and its peer; made by `own_transfer`."""

    def __init__(self, near: Inhabitant, far: Inhabitant, base: Path | None) -> None:
        self._near, self._far, self._base = near, far, base
        self._guest, self._peer = (_identity(each) for each in (near, far))
        self._placed = False

    def measure(self, rule_id: int, direction: Direction) -> Measured | None:
        """One limited direction of a rule; None if the rule ended or was changed meanwhile.

        Raises KernelCannotError, NotPermittedError, BpfError.
        """
        rate, scope = self._join(rule_id, direction)
        if not rate:
            return None
        try:
            planned = plan(rate)
            arrived, first, second = self._transfer(direction, planned, scope, rule_id)
        finally:
            still_there = self._leave(rule_id)
        measured = first and second and compare(first, second, direction, MeasuredBy.OWN_TRANSFER)
        if not measured or not still_there:
            return None
        # A small part more is TCP, which hands out late what came early.
        if arrived > _UNSEEN * measured.achieved_bytes_per_s:
            measured = replace(measured, achieved_bytes_per_s=arrived)
        if measured.ratio >= LOWEST:
            return measured
        # The guest is in no rule now, and what it connects with from here on is nobody's.
        unlimited = Plan(_LARGEST_MSS, warm_up_s=0.3, seconds=0.7)
        carried, _, _ = self._transfer(direction, unlimited, scope, None)
        return replace(measured, carried_bytes_per_s=carried)

    def _transfer(
        self, direction: Direction, planned: Plan, scope: int, rule_id: int | None
    ) -> tuple[int, Sample | None, Sample | None]:
        """What arrived, in bytes/s on the wire, and the rule's meters at both ends of that time."""
        near, far = self._near, self._far
        address = _FAR[scope == ThrottleScope.LOCAL]
        arrived = 0
        try:
            port = far.ask("listen", address, planned.mss)
            connected = near.ask("connect", address, port, planned.mss, _FLOWS) and far.ask("accept", _FLOWS)
            sender, receiver = (near, far) if direction is Direction.UP else (far, near)
            if connected:
                sender.order("send", planned.warm_up_s + planned.seconds)
                receiver.order("receive", planned.warm_up_s, planned.seconds)
            time.sleep(planned.warm_up_s)
            first = self._sample(rule_id)
            time.sleep(planned.seconds)
            second = self._sample(rule_id)
            if connected:
                arrived = int(receiver.answer())
                sender.answer()
        finally:
            near.order("hang_up")
            far.order("hang_up")
        near.answer()
        far.answer()
        return arrived, first, second

    def _sample(self, rule_id: int | None) -> Sample | None:
        return None if rule_id is None else read_meters(self._base).get(rule_id)

    def _join(self, rule_id: int, direction: Direction) -> tuple[int, int]:
        """The rate in that direction and the rule's scope; rate 0 if there is none to be measured."""
        with hooks_in_place(self._base) as hooks:
            rule = hooks and next((each for each in all_rules(hooks) if each.id == rule_id), None)
            if not hooks or not rule or not rule.rate(INDEX[direction]):
                return 0, 0
            if not self._placed:
                self._place(hooks, rule.leader)
            # Whoever verifies may be limited, and both are its children.
            guests.leave(hooks, self._peer)
            if not guests.join(hooks, self._guest, rule):
                return 0, 0
            if rule.queued:  # by the means that hold the program's traffic
                with namespaces_of([self._guest.pid]) as home:
                    hold(hooks, Engine.AUTO, rule.rates, rule.rule, home)
            return rule.rate(INDEX[direction]), rule.scope

    def _leave(self, rule_id: int) -> bool:
        """Whether the rule has lasted without the guest."""
        with hooks_in_place(self._base) as hooks:
            if hooks is None:
                return False
            rule = next((each for each in all_rules(hooks) if each.id == rule_id), None)
            lasted = rule is not None and guests.has_others(hooks, self._guest, rule)
            guests.leave(hooks, self._guest)
            return lasted

    def _place(self, hooks: Hooks, leader: Identity) -> None:
        """Hooks see the sockets made below them; at the root all are."""
        at = where(hooks)
        if at != AttachPoint.ROOT:
            guests.move_below(Path(at.at), self._guest, leader)
        self._placed = True


@contextmanager
def own_transfer(base: Path | None) -> Iterator[OwnTransfer]:
    """Processes and namespaces for `OwnTransfer`; gone afterwards, and after kill -9 too.

    Raises NotPermittedError, KernelCannotError.
    """
    require_initial_namespaces()
    near, far = (tuple(f"{address}/{_PREFIX}" for address in each) for each in (_NEAR, _FAR))
    made = False
    try:
        with private_network(End, near, far) as (here, there):
            made = True
            yield OwnTransfer(here, there, base)
    finally:
        with hooks_in_place(base) as hooks:
            if made and hooks is not None:
                sweep(hooks)  # the queue went with its namespace; what tells of it is still there


def _identity(inhabitant: Inhabitant) -> Identity:
    stat = read_stat(inhabitant.pid)
    if stat is None:
        raise ChadthrottleError(f"process {inhabitant.pid}, which chadthrottle made for a transfer, was killed")
    return stat.identity
