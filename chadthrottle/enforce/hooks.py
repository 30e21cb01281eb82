"""throttle.bpf.o in the kernel: loaded, attached and pinned by the first command, opened by the others.

    cgroup hooks   egress, ingress   police what tagged sockets send and receive
                   sock_create       tags a limited process's new sockets
                   sockops           paces its connections
    everywhere     fork, exit        keep the set of limited processes exact
                   state             tags what a limited process connects or listens with
                   send, receive     tags what it uses: sockets passed by others (Linux 6.3; optional)
    on reading     open_files        tags sockets that are there already
                   connections       paces connections that are there already

Attached, they are inert: without an entry in the map `rules` every packet passes. What attaches is pinned below
links/: a link, or where there is none the program itself (legacy.py). With --foreground it is not pinned: the
commands that hold its descriptors keep it there, and another command finds it by the pinned programs.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from chadthrottle.abi import THROTTLE_ABI_VERSION
from chadthrottle.bpf.errors import BpfError
from chadthrottle.bpf.iter_link import IterLink
from chadthrottle.bpf.links import Link, links_of_program
from chadthrottle.bpf.maps import Map
from chadthrottle.bpf.programs import Program
from chadthrottle.enforce.legacy import CGROUP_ID, IS_LEGACY, detach_recorded, read_placement
from chadthrottle.enforce.namespaces import namespaces_of
from chadthrottle.enforce.queue import remove_recorded
from chadthrottle.errors import KernelCannotError
from chadthrottle.pins import Pins, Stage

if TYPE_CHECKING:
    from chadthrottle.bpf.loader import LoadedObject
    from chadthrottle.bpf.spec import ObjectSpec, ProgramSpec
    from chadthrottle.model import AttachedBy, AttachMethod

__all__ = [
    "MAPS",
    "Hooks",
    "are_attached",
    "chosen_programs",
    "disarm",
    "install",
    "is_incomplete",
    "open_pinned",
    "open_unpinned",
    "pin_unpinned",
    "pins_of_this_version",
]

MAPS = ("processes", "tags", "rules", "meters", "holders", "claim", "placement", "queues")
_CGROUP_HOOKS = {
    "egress": "throttle_egress",
    "ingress": "throttle_ingress",
    "sockops": "pace_connection",
    "sock_create": "tag_new_socket",
}
_TRACEPOINTS = {"fork": "on_fork", "exit": "on_exit", "state": "on_socket_state"}
_OPTIONAL_TRACEPOINTS = {"send": "on_send", "receive": "on_receive"}
# Programs that commands run themselves.
_CALLED = ("set_membership", "set_share")
_ITERATORS = {"connections": "pace_open_connections"}
_OPTIONAL_ITERATORS = {"open_files": "tag_open_sockets"}


def pins_of_this_version(base: Path | None = None) -> Pins:
    """Where this version of the programs is pinned."""
    return Pins(THROTTLE_ABI_VERSION, base, before_removal=_undo_recorded)


def _undo_recorded(directory: Path) -> None:
    remove_recorded(directory)
    detach_recorded(directory)


class Hooks:
    """Open descriptors of what is in the kernel; owned by whoever made this (`install`, `open_pinned`)."""

    def __init__(
        self,
        maps: dict[str, Map],
        iterators: dict[str, IterLink],
        called: dict[str, Program],
        pins: Pins,
        *,
        follows_passed_sockets: bool,
    ) -> None:
        self.pins = pins
        self.processes = maps["processes"]
        self.tags = maps["tags"]
        self.rules = maps["rules"]
        self.meters = maps["meters"]
        self.holders = maps["holders"]
        self.claim = maps["claim"]
        self.placement = maps["placement"]
        self.queues = maps["queues"]
        self.open_files = iterators.get("open_files")
        """None: this kernel has no iter/task_file."""
        self.connections = iterators["connections"]
        self.set_membership = called["set_membership"]
        self.set_share = called["set_share"]
        self.follows_passed_sockets = follows_passed_sockets
        """A socket received over AF_UNIX, or accepted from a queue older than the rule, belongs to its user."""

    @property
    def cgroup_id(self) -> int:
        """The cgroup the hooks sit on."""
        return read_placement(self.placement, CGROUP_ID)

    @property
    def attached_by(self) -> "AttachedBy":
        return "legacy" if read_placement(self.placement, IS_LEGACY) else "link"


def is_incomplete(pins: Pins) -> bool:
    """Somebody removed pins by hand: what is left can only be removed."""
    return any(
        not set(wanted) <= set(pins.names(kind))
        for kind, wanted in (("maps", MAPS), ("links", _ITERATORS), ("programs", _CALLED))
    )


def disarm(pins: Pins, version: int) -> None:
    """End the limits that another version of chadthrottle pinned, and give connections their own pacing back.

    Every version has a map `rules`, whose entries are the limits, and an iterator `connections`, which
    lifts what they left. A pin that is missing is passed over. Raises BpfError, OSError.
    """
    directory = pins.base / f"v{version}"
    with ExitStack() as stack:
        try:
            rules = stack.enter_context(Map.open_pinned(directory / "maps" / "rules"))
            connections = stack.enter_context(IterLink.open_pinned(directory / "links" / "connections"))
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        for key in list(rules.keys()):
            rules.delete(key)
        stack.enter_context(namespaces_of(_everybody())).each(connections.read)


def _everybody() -> Iterator[int]:
    """The processes whose namespaces we may see."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                os.stat(f"/proc/{name}/ns/net")  # noqa: PTH116 # as often as there are processes
                yield int(name)


def are_attached(pins: Pins) -> bool:
    """Whether the hooks of this version run: those that are not pinned go with the last command that holds them."""
    unpinned = _unpinned(pins)
    return not unpinned or _link_id(pins, unpinned[0]) is not None


def open_unpinned(pins: Pins) -> dict[str, Link]:
    """The links that are not pinned: as long as the caller keeps them, the hooks run.

    Raises KernelCannotError when the command that held them has ended meanwhile.
    """
    links: dict[str, Link] = {}
    with ExitStack() as undo:
        for name in _unpinned(pins):
            link_id = _link_id(pins, name)
            if link_id is None:
                raise KernelCannotError("the hooks went just now, with the command that held them", hint="Try again.")
            links[name] = undo.enter_context(Link.by_id(link_id))
        undo.pop_all()
    return links


def pin_unpinned(pins: Pins) -> None:
    """Hooks that a --foreground command holds are needed longer. Raises as `open_unpinned`, and the pins' errors."""
    with ExitStack() as stack:
        for name, link in open_unpinned(pins).items():
            pins.pin(stack.enter_context(link), name)
            pins.unpin("programs", name)


def _link_id(pins: Pins, name: str) -> int | None:
    program = pins.program(name)
    if program is None:
        return None
    with program:
        return next((info.id for info in links_of_program(program.info().id)), None)


def _unpinned(pins: Pins) -> list[str]:
    """The names of hooks whose program is pinned because their link is not."""
    there = set(pins.names("links"))
    return [name for name in pins.names("programs") if name not in _CALLED and name not in there]


@contextmanager
def open_pinned(pins: Pins) -> Iterator[Hooks]:
    """What an earlier command pinned. The caller holds the lock and has seen `pins.current`.

    Raises KernelCannotError when a pin is missing: somebody removed it by hand.
    """
    with ExitStack() as stack:
        maps = {}
        for name in MAPS:
            found = pins.map(name)
            if found is None:
                raise _incomplete(pins, name)
            maps[name] = stack.enter_context(found)
        iterators = {}
        for name in _ITERATORS | _OPTIONAL_ITERATORS:
            path = pins.directory / "links" / name
            if path.exists():
                iterators[name] = stack.enter_context(IterLink.open_pinned(path))
            elif name in _ITERATORS:
                raise _incomplete(pins, name)
        called = {}
        for name in _CALLED:
            program = pins.program(name)
            if program is None:
                raise _incomplete(pins, name)
            called[name] = stack.enter_context(program)
        passed = set(_OPTIONAL_TRACEPOINTS) <= {*pins.names("links"), *pins.names("programs")}
        yield Hooks(maps, iterators, called, pins, follows_passed_sockets=passed)


@contextmanager
def install(pins: Pins, cgroup: Path, method: "AttachMethod" = "auto", *, pinned: bool = True) -> Iterator[Hooks]:
    """Load, attach to `cgroup` and pin: all of it, or nothing.

    Unless `pinned`, the links are not: they go when the block is left, if nobody has opened them
    (`open_unpinned`). Legacy attachments are always recorded. The caller holds the lock; nothing of this
    version is pinned yet. Raises AttachError, VerifierError, NotSupportedError and the pins' errors.
    """
    # Only here: the other commands parse no object, and importing pyelftools costs more than they do.
    from chadthrottle.artifacts import check_fresh, object_path
    from chadthrottle.bpf.cgroup_link import has_links
    from chadthrottle.bpf.iter_link import attach_iter
    from chadthrottle.bpf.loader import load
    from chadthrottle.bpf.parse import open_object
    from chadthrottle.bpf.tracing_link import attach_tp_btf

    check_fresh("throttle")
    legacy = method == "legacy" or (method == "auto" and not has_links())
    with ExitStack() as stack:
        spec = open_object(object_path("throttle"))
        tracepoints, walks = _tracing(spec)
        passed = set(_OPTIONAL_TRACEPOINTS) <= set(tracepoints)
        loaded = stack.enter_context(load(spec, programs=chosen_programs(spec)))
        iterators = {
            name: stack.enter_context(attach_iter(loaded.programs[program])) for name, program in walks.items()
        }
        with pins.stage() as stage:
            for name in MAPS:
                stage.pin(loaded.maps[name], name)
            for name in _CALLED:
                stage.pin(loaded.programs[name], name)
            for name, iterator in iterators.items():
                stage.pin(iterator, name)
            links = _attach_to_cgroup(stack, stage, loaded, cgroup, legacy=legacy)
            for name, program in tracepoints.items():
                links[name] = stack.enter_context(attach_tp_btf(loaded.programs[program]))
            for name, link in links.items():
                if pinned:
                    stage.pin(link, name)
                else:
                    stage.pin(loaded.programs[(_CGROUP_HOOKS | tracepoints)[name]], name)
        maps = {name: loaded.maps[name] for name in MAPS}
        called = {name: loaded.programs[name] for name in _CALLED}
        yield Hooks(maps, iterators, called, pins, follows_passed_sockets=passed)


def chosen_programs(spec: "ObjectSpec") -> list[str]:
    """The programs of throttle.bpf.o that `install` loads: not those that this kernel has no place for."""
    tracepoints, walks = _tracing(spec)
    return [*_CGROUP_HOOKS.values(), *tracepoints.values(), *walks.values(), *_CALLED]


def _tracing(spec: "ObjectSpec") -> tuple[dict[str, str], dict[str, str]]:
    """The tracepoint programs and the iterators there are places for, by hook."""
    passed = all(_has_tracepoint(spec.programs[program]) for program in _OPTIONAL_TRACEPOINTS.values())
    tracepoints = _TRACEPOINTS | (_OPTIONAL_TRACEPOINTS if passed else {})
    return tracepoints, _ITERATORS | (_OPTIONAL_ITERATORS if _has_iterator("task_file") else {})


def _attach_to_cgroup(
    stack: ExitStack, stage: Stage, loaded: "LoadedObject", cgroup: Path, *, legacy: bool
) -> dict[str, Link]:
    """The links. A legacy attachment is recorded before it is made, and is none of them."""
    from chadthrottle.bpf.cgroup_link import attach_cgroup
    from chadthrottle.bpf.cgroupfs import open_cgroup

    with open_cgroup(cgroup) as directory:
        for key, value in (CGROUP_ID, directory.id), (IS_LEGACY, int(legacy)):
            loaded.maps["placement"].update(key.to_bytes(4, "little"), value.to_bytes(8, "little"))
        links: dict[str, Link] = {}
        for name, program in _CGROUP_HOOKS.items():
            if legacy:
                record = stage.record(loaded.programs[program], name)
                link = attach_cgroup(loaded.programs[program], cgroup, method="legacy")
                link.pinned_at = record  # stays when the link is closed, which is now
                link.close()
            else:
                links[name] = stack.enter_context(attach_cgroup(loaded.programs[program], cgroup, method="link"))
    return links


def _has_tracepoint(program: "ProgramSpec") -> bool:
    from chadthrottle.bpf.constants import BtfKind
    from chadthrottle.bpf.kernel_btf import vmlinux

    return vmlinux().find(BtfKind.BTF_KIND_TYPEDEF, f"btf_trace_{program.attach_to}") is not None


def _has_iterator(target: str) -> bool:
    from chadthrottle.bpf.constants import BtfKind
    from chadthrottle.bpf.kernel_btf import vmlinux

    return vmlinux().find(BtfKind.BTF_KIND_FUNC, f"bpf_iter_{target}") is not None


def _incomplete(pins: Pins, name: str) -> KernelCannotError:
    return KernelCannotError(
        f"{pins.directory} lacks {name}: somebody removed it",
        hint="sudo chadthrottle release --all removes the rest, and the limits with it.",
    )
