"""What a rule is, and what is known of it: frozen data for every layer above.

`RuleSpec` is asked for, `RuleState` is read back, `to_json` is what `list --json` prints of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Literal, NamedTuple

__all__ = [
    "SCHEMA",
    "AttachMethod",
    "AttachPoint",
    "AttachedBy",
    "Direction",
    "DirectionState",
    "Engine",
    "ProcessIdentity",
    "RuleSpec",
    "RuleState",
    "Scope",
    "to_json",
]

# The version of everything --json prints. New keys leave it as it is; a key that goes or changes raises it.
SCHEMA = 1

# The runtime's own words, so that a choice goes straight to bpf.cgroup_link; a test compares them.
AttachMethod = Literal["auto", "link", "legacy"]
AttachedBy = Literal["link", "legacy"]


class Direction(StrEnum):
    """Seen from the limited process."""

    UP = "up"
    DOWN = "down"

    @property
    def hook(self) -> Literal["egress", "ingress"]:
        """The kernel's name for it."""
        return "egress" if self is Direction.UP else "ingress"


class Scope(StrEnum):
    """Which peers a limit is about; loopback never is."""

    ALL = "all"
    INTERNET = "internet"
    LOCAL = "local"


class Engine(StrEnum):
    """The means by which a limit holds; AUTO is only ever asked for."""

    AUTO = "auto"
    CGROUP = "cgroup"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class AttachPoint:
    """Where in the cgroup2 tree the programs sit: `root`, the process's own cgroup (`leaf`), or a directory.

    A directory is an absolute path; whether it is a cgroup is for `cgroup.py` to find out.
    """

    ROOT: ClassVar["AttachPoint"]
    LEAF: ClassVar["AttachPoint"]

    at: str

    def __post_init__(self) -> None:
        if self.at not in ("root", "leaf") and not self.at.startswith("/"):
            raise ValueError(f"neither root, leaf nor an absolute path: {self.at!r}")

    def __str__(self) -> str:
        return self.at


AttachPoint.ROOT = AttachPoint("root")
AttachPoint.LEAF = AttachPoint("leaf")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that no later one of the same number can be mistaken for.

    The name is the kernel's `comm` when the process was identified. It may change: it is not compared.
    """

    pid: int
    """As the caller's PID namespace shows it."""
    start_time_ticks: int
    """Since boot, in 1/100 s: field 22 of /proc/PID/stat (proc_pid_stat(5)), or task_struct's
    start_boottime divided by 10 000 000 ns."""
    name: str = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSpec:
    """A limit to be set: on the process and, unless `children` is off, its descendants.

    A direction whose rate is None is not named: it stays as it is. At least one is named.
    """

    process: ProcessIdentity
    rate_up_bytes_per_s: int | None = None
    rate_down_bytes_per_s: int | None = None
    children: bool = True
    scope: Scope | None = None
    """None: not named."""
    engine: Engine = Engine.AUTO
    attach: AttachMethod = "auto"
    at: AttachPoint = AttachPoint.ROOT
    duration_s: int | None = None
    """None: until it is released."""

    def __post_init__(self) -> None:
        if self.rate_up_bytes_per_s is None and self.rate_down_bytes_per_s is None:
            raise ValueError("a rule limits at least one direction")

    def rate_bytes_per_s(self, direction: Direction) -> int | None:
        return self.rate_up_bytes_per_s if direction is Direction.UP else self.rate_down_bytes_per_s


class DirectionState(NamedTuple):
    """One limited direction of a rule. Counts are since the limit was set."""

    engine: Engine
    asked_bytes_per_s: int
    achieved_bytes_per_s: int | None
    """Bytes on the wire past the limiter; None before there was time to measure."""
    dropped_packets: int = 0
    marked_packets: int = 0
    """Marked as having met congestion (ECN CE) instead of dropped."""
    retransmitted_packets: int = 0
    policed_share: float | None = None
    """Of a queued direction: the part of what passed that did not come through the queue; 0 to 1."""

    def to_json(self) -> dict[str, object]:
        return {
            "asked_bytes_per_s": self.asked_bytes_per_s,
            "achieved_bytes_per_s": self.achieved_bytes_per_s,
            "dropped_packets": self.dropped_packets,
            "marked_packets": self.marked_packets,
            "retransmitted_packets": self.retransmitted_packets,
            "policed_share": None if self.policed_share is None else round(self.policed_share, 4),
        }


class RuleState(NamedTuple):
    """A rule as it was found in the kernel. A direction without a limit is None."""

    process: ProcessIdentity
    up: DirectionState | None
    down: DirectionState | None
    attached_by: AttachedBy
    at: AttachPoint
    children: bool = True
    scope: Scope = Scope.ALL
    held_by: int | None = None
    """The PID of the --foreground command with which it ends."""
    remaining_s: int | None = None
    """None: until it is released."""

    def direction(self, direction: Direction) -> DirectionState | None:
        return self.up if direction is Direction.UP else self.down

    def to_json(self) -> dict[str, object]:
        states = {direction.value: self.direction(direction) for direction in Direction}
        return {
            "pid": self.process.pid,
            "start_time": self.process.start_time_ticks,
            "name": self.process.name,
            **{name: state and state.to_json() for name, state in states.items()},
            "engine": {name: state and state.engine.value for name, state in states.items()},
            "attach": {"method": self.attached_by, "at": self.at.at},
            "children": self.children,
            "scope": self.scope.value,
            "held_by": self.held_by,
            "remaining_s": self.remaining_s,
        }


def to_json(rules: Iterable[RuleState], notes: Iterable[str] = ()) -> dict[str, object]:
    """What `list --json` prints, and `watch --json` in each line; for json.dumps.

    `notes` is what else the user should know, a sentence each: hooks that idle, a shared socket that
    this kernel cannot follow.
    """
    return {"schema": SCHEMA, "rules": [rule.to_json() for rule in rules], "notes": list(notes)}
