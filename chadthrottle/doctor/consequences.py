"""What nobody has when something basic is missing: sets of needs that several families block."""

from chadthrottle.doctor.check import Context
from chadthrottle.doctor.finding import Need

__all__ = ["ATTACHING", "EVERYTHING", "WITHOUT_BPF", "WITHOUT_CGROUP2", "lack_of_root"]

ATTACHING = frozenset({Need.LEAF, Need.TARGET_CGROUP, Need.ROOT_CGROUP})
WITHOUT_BPF = ATTACHING | {Need.BPF, Need.OUR_OBJECTS, Need.QUEUE}
WITHOUT_CGROUP2 = ATTACHING | {Need.CGROUP2, Need.CGROUP_MAKING}
EVERYTHING = frozenset(Need) - {Need.TARGET, Need.CGROUP2}
"""What takes privileges. Where cgroup2 is, and whether the target lives, anybody may see."""


def lack_of_root(context: Context) -> str:
    """The `because` of a check that was not permitted something: why the caller has no privileges, if it has none."""
    blocking = context.because_of({Need.BPF})
    return blocking.id if blocking is not None and blocking.outcome.permission else ""
