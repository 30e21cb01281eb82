"""What is pinned, and what that means: looked at once, for all checks that go by it."""

import errno
import re
from collections.abc import Callable
from contextlib import closing, suppress
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from chadthrottle import cgroup
from chadthrottle.bpf.cgroupfs import open_cgroup
from chadthrottle.bpf.constants import AttachType
from chadthrottle.bpf.errors import BpfError
from chadthrottle.bpf.links import Link
from chadthrottle.bpf.maps import Map
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.query import program_ids
from chadthrottle.doctor.check import Context
from chadthrottle.doctor.finding import Outcome, unknown
from chadthrottle.enforce import hooks as hooks_module
from chadthrottle.enforce import rules
from chadthrottle.enforce.membership import members
from chadthrottle.enforce.queue import records
from chadthrottle.errors import ChadthrottleError, KernelCannotError, NotPermittedError
from chadthrottle.pins import Pins

__all__ = ["Current", "Pinned", "forget", "look", "remove_current", "told"]

_KEY = "our pins"
_ON_CGROUP = {
    "egress": AttachType.BPF_CGROUP_INET_EGRESS,
    "ingress": AttachType.BPF_CGROUP_INET_INGRESS,
    "sockops": AttachType.BPF_CGROUP_SOCK_OPS,
    "sock_create": AttachType.BPF_CGROUP_INET_SOCK_CREATE,
}
_ON_TRACEPOINTS = ("fork", "exit", "state")
_NAMES = re.compile(r"v(0|[1-9][0-9]*)(-part)?")


class Current(Enum):
    """What the pins of this version are good for."""

    NONE = auto()
    """There are none."""
    INCOMPLETE = auto()
    """Some were removed by hand: no command can use the rest."""
    UNHELD = auto()
    """The --foreground command that held the hooks is gone."""
    NOWHERE = auto()
    """The cgroup that the hooks sat on is gone, or somebody detached them."""
    IDLE = auto()
    """Nothing is limited."""
    RUNNING = auto()
    """They limit somebody."""


class Pinned(NamedTuple):
    """What lies in the directory of pins."""

    current: Current
    unfinished: tuple[int, ...]
    """Versions half made or half removed."""
    others: dict[int, int]
    """Other versions, and how many limits each has."""
    strange: tuple[str, ...]
    """Names that no version of chadthrottle makes."""
    missing: tuple[str, ...]
    """INCOMPLETE: "maps/rules". NOWHERE: the hooks that are not attached any more; none if their cgroup is gone."""
    limited: tuple[rules.Rule, ...]
    """Rules that limit somebody."""
    ended: tuple[rules.Rule, ...]
    """Expired, or without a process."""
    queues: tuple[records.Record, ...]
    attached_by: str
    cgroup_id: int
    stray_links: tuple[str, ...]
    """Pins of tcx links that no record tells of."""


_NOTHING = Pinned(Current.NONE, (), {}, (), (), (), (), (), "", 0, ())


def look(context: Context) -> Pinned:
    """Raises what kept it from being seen: NotPermittedError, KernelCannotError, BusyError."""
    if _KEY not in context.shared:
        context.shared[_KEY] = _look(context)
    found: Pinned = context.shared[_KEY]
    return found


def forget(context: Context) -> None:
    """Something was removed: whoever asks next is to see that."""
    context.shared.pop(_KEY, None)


def told(check: Callable[[Context, Pinned], Outcome]) -> Callable[[Context], Outcome]:
    """A check of what is pinned; what cannot be looked at is could-not-tell."""

    def run(context: Context) -> Outcome:
        try:
            pinned = look(context)
        except (ChadthrottleError, OSError) as error:
            return unknown(
                "what is pinned cannot be looked at",
                tried=f"lock and list {context.base}",
                came_back=error.message if isinstance(error, ChadthrottleError) else f"{error.strerror}",
                means=(error.hint or "") if isinstance(error, ChadthrottleError) else "",
            )
        return check(context, pinned)

    return run


def remove_current(pins: Pins) -> None:
    """End what this version limits, and remove all it has pinned, attached and queued. The caller holds the lock."""
    hooks_module.disarm(pins, pins.version)
    pins.remove(pins.version)


def _look(context: Context) -> Pinned:
    pins = hooks_module.pins_of_this_version(context.base)
    with pins.lock(create=False) as there:
        if not there:
            return _NOTHING
        names = [path.name for path in context.base.iterdir()]
        found = _NOTHING._replace(
            strange=tuple(sorted(name for name in names if not _NAMES.fullmatch(name))),
            unfinished=tuple(pins.unfinished()),
            others={version: _limits(pins, version) for version in pins.versions() if version != pins.version},
        )
        if not pins.current:
            return found
        missing = _missing(pins)
        if missing:
            return found._replace(current=Current.INCOMPLETE, missing=missing)
        if not hooks_module.are_attached(pins):
            return found._replace(current=Current.UNHELD)
        return _with_rules(pins, found)


def _with_rules(pins: Pins, found: Pinned) -> Pinned:
    with hooks_module.open_pinned(pins) as hooks:
        limited: list[rules.Rule] = []
        ended: list[rules.Rule] = []
        for rule in rules.all_rules(hooks):
            (ended if rule.expired or not members(hooks, rule.id) else limited).append(rule)
        queues = tuple(records.read(hooks.queues))
        recorded = {each.pin_name for each in queues if each.by_link}
        found = found._replace(
            limited=tuple(limited),
            ended=tuple(ended),
            queues=queues,
            attached_by=hooks.attached_by,
            cgroup_id=hooks.cgroup_id,
            stray_links=tuple(
                name for name in pins.names("links") if name.startswith("queue-") and name not in recorded
            ),
        )
        place = _place(hooks.cgroup_id)
        detached = _detached(pins, place) if place and place.name else ()
        if place is None or detached:
            return found._replace(current=Current.NOWHERE, missing=detached)
        return found._replace(current=Current.RUNNING if limited else Current.IDLE)


def _missing(pins: Pins) -> tuple[str, ...]:
    """What a command would not go without."""
    wanted = {"maps": hooks_module.MAPS, "links": ("connections",), "programs": ("set_membership", "set_share")}
    missing = [f"{kind}/{name}" for kind, names in wanted.items() for name in names if name not in pins.names(kind)]
    hooks = {*pins.names("links"), *pins.names("programs")}
    return (*missing, *(f"links/{name}" for name in (*_ON_CGROUP, *_ON_TRACEPOINTS) if name not in hooks))


def _detached(pins: Pins, place: Path) -> tuple[str, ...]:
    """Somebody has detached them by force (bpftool link detach, bpftool cgroup detach); the pins do not tell."""
    found = []
    with open_cgroup(place) as directory:
        for name, attach_type in _ON_CGROUP.items():
            path = pins.directory / "links" / name
            if path.exists():
                with closing(_opened(path)) as pinned:
                    program = pinned.program_id if isinstance(pinned, Link) else pinned.info().id
                    if program not in program_ids(directory.fd, attach_type):
                        found.append(name)
    return tuple(found)


def _opened(path: Path) -> Link | Program:
    try:
        return Link.open_pinned(path)
    except BpfError as error:
        if error.errno != errno.EINVAL:
            raise
        return Program.open_pinned(path)


def _limits(pins: Pins, version: int) -> int:
    """How many; every version's map `rules` has an entry for each (enforce.hooks.disarm)."""
    with suppress(BpfError), Map.open_pinned(pins.base / f"v{version}" / "maps" / "rules") as opened:
        return len(list(opened.keys()))
    return 0


def _place(cgroup_id: int) -> Path | None:
    """None: it is gone. Where cgroup2 is not mounted nobody can tell: Path()."""
    try:
        return cgroup.find(cgroup_id)
    except (KernelCannotError, NotPermittedError):
        return Path()
