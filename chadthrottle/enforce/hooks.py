"""throttle.bpf.o in the kernel: loaded, attached and pinned by the first command, opened by the others.

    cgroup hooks   egress, ingress   police what tagged sockets send and receive
                   sock_create       tags a limited process's new sockets
                   sockops           paces its connections
    everywhere     fork, exit        keep the set of limited processes exact
                   state             tags what a limited process connects or listens with
                   send, receive     tags what it uses: sockets passed by others (Linux 6.3; optional)
    on reading     open_files        tags sockets that are there already
                   connections       paces connections that are there already

Attached, they are inert: without an entry in the map `rules` every packet passes.
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
from chadthrottle.bpf.links import Link
from chadthrottle.bpf.maps import Map
from chadthrottle.bpf.programs import Program
from chadthrottle.enforce.namespaces import namespaces_of
from chadthrottle.errors import KernelCannotError
from chadthrottle.pins import Pins

if TYPE_CHECKING:
    from chadthrottle.bpf.spec import ProgramSpec

__all__ = ["CGROUP_HOOKS", "MAPS", "Hooks", "disarm", "install", "is_incomplete", "open_pinned", "pins_of_this_version"]

MAPS = ("processes", "rules", "meters", "claim", "placement")
CGROUP_HOOKS = {
    "egress": "throttle_egress",
    "ingress": "throttle_ingress",
    "sockops": "pace_connection",
    "sock_create": "tag_new_socket",
}
_TRACEPOINTS = {"fork": "on_fork", "exit": "on_exit", "state": "on_socket_state"}
_OPTIONAL_TRACEPOINTS = {"send": "on_send", "receive": "on_receive"}
# Programs that commands run themselves.
_CALLED = ("set_membership", "begin_pacing")
_ITERATORS = {"open_files": "tag_open_sockets", "connections": "pace_open_connections"}


def pins_of_this_version(base: Path | None = None) -> Pins:
    """Where this version of the programs is pinned."""
    return Pins(THROTTLE_ABI_VERSION, base)


class Hooks:
    """Open descriptors of what is in the kernel; owned by whoever made this (`install`, `open_pinned`)."""

    def __init__(
        self,
        maps: dict[str, Map],
        iterators: dict[str, IterLink],
        called: dict[str, Program],
        *,
        follows_passed_sockets: bool,
    ) -> None:
        self.processes = maps["processes"]
        self.rules = maps["rules"]
        self.meters = maps["meters"]
        self.claim = maps["claim"]
        self.placement = maps["placement"]
        self.open_files = iterators["open_files"]
        self.connections = iterators["connections"]
        self.set_membership = called["set_membership"]
        self.begin_pacing = called["begin_pacing"]
        self.follows_passed_sockets = follows_passed_sockets
        """A socket received over AF_UNIX, or accepted from a queue older than the rule, belongs to its user."""

    @property
    def cgroup_id(self) -> int:
        """The cgroup the hooks sit on."""
        return int.from_bytes(self.placement.lookup(bytes(4)) or b"", "little")


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
        for name in _ITERATORS:
            path = pins.directory / "links" / name
            if not path.exists():
                raise _incomplete(pins, name)
            iterators[name] = stack.enter_context(IterLink.open_pinned(path))
        called = {}
        for name in _CALLED:
            program = pins.program(name)
            if program is None:
                raise _incomplete(pins, name)
            called[name] = stack.enter_context(program)
        passed = set(_OPTIONAL_TRACEPOINTS) <= set(pins.names("links"))
        yield Hooks(maps, iterators, called, follows_passed_sockets=passed)


@contextmanager
def install(pins: Pins, cgroup: Path) -> Iterator[Hooks]:
    """Load, attach to `cgroup` and pin: all of it, or nothing.

    The caller holds the lock; nothing of this version is pinned yet. Raises AttachError, VerifierError,
    NotSupportedError and the pins' errors.
    """
    # Only here: the other commands parse no object, and importing pyelftools costs more than they do.
    from chadthrottle.artifacts import check_fresh, object_path
    from chadthrottle.bpf.cgroup_link import attach_cgroup
    from chadthrottle.bpf.iter_link import attach_iter
    from chadthrottle.bpf.loader import load
    from chadthrottle.bpf.parse import open_object
    from chadthrottle.bpf.tracing_link import attach_tp_btf

    check_fresh("throttle")
    with ExitStack() as stack:
        spec = open_object(object_path("throttle"))
        passed = all(_has_tracepoint(spec.programs[program]) for program in _OPTIONAL_TRACEPOINTS.values())
        tracepoints = _TRACEPOINTS | (_OPTIONAL_TRACEPOINTS if passed else {})
        programs = [*CGROUP_HOOKS.values(), *tracepoints.values(), *_ITERATORS.values(), *_CALLED]
        loaded = stack.enter_context(load(spec, programs=programs))
        with pins.stage() as stage:
            links: dict[str, Link] = {}
            for name, program in CGROUP_HOOKS.items():
                links[name] = stack.enter_context(attach_cgroup(loaded.programs[program], cgroup, method="link"))
            for name, program in tracepoints.items():
                links[name] = stack.enter_context(attach_tp_btf(loaded.programs[program]))
            iterators = {
                name: stack.enter_context(attach_iter(loaded.programs[program])) for name, program in _ITERATORS.items()
            }
            loaded.maps["placement"].update(bytes(4), links["egress"].info().cgroup_id.to_bytes(8, "little"))
            for name, link in (links | dict[str, Link](iterators)).items():
                stage.pin(link, name)
            for name in MAPS:
                stage.pin(loaded.maps[name], name)
            for name in _CALLED:
                stage.pin(loaded.programs[name], name)
        maps = {name: loaded.maps[name] for name in MAPS}
        called = {name: loaded.programs[name] for name in _CALLED}
        yield Hooks(maps, iterators, called, follows_passed_sockets=passed)


def _has_tracepoint(program: "ProgramSpec") -> bool:
    from chadthrottle.bpf.constants import BtfKind
    from chadthrottle.bpf.kernel_btf import vmlinux

    return vmlinux().find(BtfKind.BTF_KIND_TYPEDEF, f"btf_trace_{program.attach_to}") is not None


def _incomplete(pins: Pins, name: str) -> KernelCannotError:
    return KernelCannotError(
        f"{pins.directory} lacks {name}: somebody removed it",
        hint="sudo chadthrottle release --all removes the rest, and the limits with it.",
    )
