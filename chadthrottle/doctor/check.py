"""A check, and what checks share while they run."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from chadthrottle.doctor.finding import Finding, Group, Need, Outcome, Status
from chadthrottle.model import ProcessIdentity

__all__ = ["Check", "Context"]


@dataclass
class Context:
    """One examination. Everything that checks make is on `stack`, and gone at its end."""

    base: Path
    """Where our pins are."""
    stack: ExitStack
    pid: int | None = None
    """As the caller's PID namespace shows it."""
    target: ProcessIdentity | None = None
    """None: none was asked about, or it has ended (Need.TARGET is blocked then)."""
    only_root: bool = False
    """CHADTHROTTLE_TEST_ROOT_CGROUP=1: trials at the root alone."""
    fix: bool = False
    findings: list[Finding] = field(default_factory=list)
    shared: dict[str, Any] = field(default_factory=dict)
    """What one check found and another one needs, by a name of the family's own."""

    def because_of(self, needs: Iterable[Need]) -> Finding | None:
        """The failed finding that took away one of these."""
        wanted = set(needs)
        return next((each for each in self.findings if each.outcome.blocks & wanted), None)

    def status_of(self, check_id: str) -> Status | None:
        """None: it did not run."""
        return next((each.outcome.status for each in self.findings if each.id == check_id), None)


class Check(NamedTuple):
    """One thing to look at. `run` raises nothing on purpose: what it raises is a bug of doctor's."""

    id: str
    """CT-FAMILY-NN: for good, documented in docs/troubleshooting.md."""
    group: Group
    what: str
    run: Callable[[Context], Outcome]
    needs: frozenset[Need] = frozenset()
