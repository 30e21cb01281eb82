"""What a check found, as data. Pure; nothing here prints."""

from enum import StrEnum
from typing import NamedTuple

__all__ = ["Finding", "Group", "Need", "Outcome", "Report", "Status", "failed", "ok", "unknown", "warning"]


class Group(StrEnum):
    """In the order in which people read them."""

    SYSTEM = "system"
    PERMISSIONS = "permissions"
    CGROUPS = "cgroups"
    FEATURES = "BPF features"
    OBJECTS = "our objects"
    ATTACH = "attach"
    CONFLICTS = "conflicts"
    ENFORCEMENT = "enforcement"
    LEFTOVERS = "leftovers"
    DOCTOR = "doctor itself"


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "could not tell"


class Need(StrEnum):
    """What a check cannot do without. A check that failed says which of them nobody has now."""

    BPF = "bpf(2), programs and maps"
    CGROUP2 = "a cgroup2 hierarchy"
    CGROUP_MAKING = "cgroups of our own"
    NETWORK = "network namespaces and devices of our own"
    OUR_OBJECTS = "our own BPF objects"
    PROCESS_NUMBERS = "process numbers that are the kernel's own"
    TARGET = "the program asked about"
    LEAF = "programs on a cgroup of our own"
    TARGET_CGROUP = "programs on the target's cgroup"
    ROOT_CGROUP = "programs on the root cgroup"
    BPFFS = "a BPF filesystem to pin to"
    QUEUE = "IFB, HTB and tbf"


class Outcome(NamedTuple):
    """What a check returns; by `ok`, `warning`, `failed`, `unknown`."""

    status: Status
    summary: str
    """One line: what is the case."""
    tried: str = ""
    came_back: str = ""
    """An errno by name, or what was read."""
    means: str = ""
    cure: tuple[str, ...] = ()
    """What to do about it: commands to copy begin with `sudo ` or two blanks, the rest are sentences."""
    details: tuple[str, ...] = ()
    """For --verbose and the report: a verifier's log, a list of programs."""
    because: str = ""
    """The id of the finding that this one follows from: that one is the cause."""
    blocks: frozenset[Need] = frozenset()
    permission: bool = False
    """It is the caller who may not: exit status 3 and not 5."""


class Finding(NamedTuple):
    """An outcome, with its name."""

    id: str
    group: Group
    what: str
    """What was looked at."""
    outcome: Outcome

    @property
    def is_cause(self) -> bool:
        """Something is wrong, and not for a reason that another finding gives."""
        return self.outcome.status in (Status.FAILED, Status.WARNING) and not self.outcome.because


class Report(NamedTuple):
    """All findings in the order of their groups, and what they amount to."""

    findings: tuple[Finding, ...]
    works: tuple[str, ...]
    """Sentences: uploads, downloads, by which engine, at which attach point."""

    @property
    def exit_code(self) -> int:
        """1: a bug in doctor; 3: not permitted; 5: kernel or set-up cannot; 0: all fine, or warnings only."""
        wrong = [each for each in self.findings if each.outcome.status is Status.FAILED]
        if any(each.group is Group.DOCTOR for each in wrong):
            return 1
        if any(each.outcome.permission for each in wrong):
            return 3
        return 5 if wrong else 0


def ok(summary: str, *, details: tuple[str, ...] = ()) -> Outcome:
    """It is as it should be."""
    return Outcome(Status.OK, summary, details=details)


def warning(
    summary: str,
    *,
    means: str,
    cure: tuple[str, ...] = (),
    tried: str = "",
    came_back: str = "",
    details: tuple[str, ...] = (),
) -> Outcome:
    """Limits work, but not as well as they could; or something is in the way of others than the asked ones."""
    return Outcome(Status.WARNING, summary, tried, came_back, means, cure, details)


def failed(
    summary: str,
    *,
    tried: str,
    came_back: str,
    means: str,
    cure: tuple[str, ...],
    blocks: frozenset[Need] = frozenset(),
    permission: bool = False,
    details: tuple[str, ...] = (),
) -> Outcome:
    """Something that limits need does not work. `blocks`: so other checks need not be tried."""
    return Outcome(Status.FAILED, summary, tried, came_back, means, cure, details, blocks=blocks, permission=permission)


def unknown(
    summary: str,
    *,
    because: str = "",
    means: str = "",
    tried: str = "",
    came_back: str = "",
    cure: tuple[str, ...] = (),
) -> Outcome:
    """It could not be told. `because`: the id of the finding that kept it from being tried."""
    return Outcome(Status.UNKNOWN, summary, tried, came_back, means, cure, because=because)
