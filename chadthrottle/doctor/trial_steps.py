"""The steps of a trial, and what each is told as when it goes otherwise than it should."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from chadthrottle.bpf.cgroupfs import open_cgroup
from chadthrottle.bpf.constants import AttachType
from chadthrottle.bpf.errors import AttachError, BpfError, NotSupportedError, errno_name
from chadthrottle.bpf.links import Link
from chadthrottle.bpf.query import program_ids
from chadthrottle.doctor.trial_abi import TRIAL_DROPPED_BYTES, TrialDirection, TrialSocket
from chadthrottle.errors import ChadthrottleError

if TYPE_CHECKING:
    from chadthrottle.enforce.private_network import Inhabitant

__all__ = [
    "FAR",
    "NEAR",
    "Method",
    "NoNetworkError",
    "StepError",
    "counted",
    "described",
    "detach",
    "require_free",
    "step",
    "talk",
]

Method = Literal["link", "legacy"]

NEAR, FAR = "198.51.100.1", "198.51.100.2"
"""Of TEST-NET-2 (RFC 5737), seen by nobody else."""
_BEFORE, _AFTER = 100, 101
"""Bytes of the packets that have to arrive."""


class NoNetworkError(ChadthrottleError):
    """No private network can be made here: nothing can be said of packets."""


class StepError(ChadthrottleError):
    """A step of a trial went otherwise than it should."""

    def __init__(self, step: str, came_back: str, means: str, *, number: int = 0, hint: str | None = None) -> None:
        super().__init__(f"{step}: {came_back}: {means}", hint=hint)
        self.step = step
        self.came_back = came_back
        self.means = means
        self.number = number


@contextmanager
def step(name: str) -> Iterator[None]:
    """A refusal says at which step it came."""
    try:
        yield
    except AttachError as error:
        # The message has it behind "… on PATH: EPERM: ".
        why = error.message.partition(f"{errno_name(error.errno)}: ")[2] or error.message
        raised = StepError(name, errno_name(error.errno), why, number=error.errno, hint=error.hint)
        raised.exit_code = error.exit_code
        raise raised from error
    except NotSupportedError as error:
        raise StepError(name, "EINVAL", error.message, hint=error.hint) from error


def detach(link: Link, program_id: int, place: Path, hook: AttachType, method: Method) -> None:
    """It is gone from the cgroup's list afterwards. Raises StepError."""
    name = "link_detach" if method == "link" else "prog_detach"
    with step(name):
        link.detach() if method == "link" else link.close()
    try:
        with open_cgroup(place) as directory:
            left = program_id in program_ids(directory.fd, hook)
    except BpfError as error:
        raise StepError(name, errno_name(error.errno), f"{place} was removed", number=error.errno) from error
    if left:
        raise StepError(name, "success", f"program {program_id} is in the list of {hook.name} all the same")


def talk(near: "Inhabitant", far: "Inhabitant", ports: tuple[int, int]) -> list[str]:
    """Both ways: one that passes, one to be dropped, one that passes. Who else keeps packets back, if somebody does."""
    told = []
    sizes = [_BEFORE, TRIAL_DROPPED_BYTES, _AFTER]
    for direction, sender, receiver, address, port in _ways(near, far, ports):
        errors = sender.ask("send", address, port, sizes)
        heard = receiver.ask("hear", 2) if len(errors) < len(sizes) - 1 else []
        if TRIAL_DROPPED_BYTES in heard:
            raise StepError(
                f"drop on {direction}", "the packet arrived", "the kernel did not do as the attached program answered"
            )
        if heard != [_BEFORE, _AFTER]:
            also = f" ({', '.join(errors)} when sending)" if errors else ""
            told.append(f"{direction}: something else than the trial's program keeps packets back{also}")
    return told


def counted(value: bytes | None) -> list[str]:
    """What the programs counted. Raises StepError: they did not see the packets."""
    count = TrialSocket.from_buffer_copy(value or bytes(TrialSocket()))
    told = []
    for direction in TrialDirection:
        packets, dropped = count.packets[direction], count.dropped[direction]
        name = direction.name.lower()
        if not packets:
            raise StepError(
                f"count on {name}",
                "0 packets",
                "the program is attached, and the kernel does not run it for a socket in this cgroup",
            )
        if not dropped:
            raise StepError(f"drop on {name}", f"{packets} packets, none dropped", "the program was not obeyed")
        told.append(f"{name}: {packets} packets counted, {dropped} dropped")
    return told


def require_free(near: "Inhabitant", far: "Inhabitant", ports: tuple[int, int]) -> None:
    """Detached, a program drops nothing."""
    for direction, sender, receiver, address, port in _ways(near, far, ports):
        sender.order("send", address, port, [TRIAL_DROPPED_BYTES, _AFTER])
        sender.answer()
        if receiver.ask("hear", 1) == [_AFTER]:
            raise StepError(f"detach on {direction}", "the packet is dropped still", "the program runs on")


def _ways(
    near: "Inhabitant", far: "Inhabitant", ports: tuple[int, int]
) -> Iterator[tuple[str, "Inhabitant", "Inhabitant", str, int]]:
    here, there = ports
    yield "egress", near, far, FAR, there
    yield "ingress", far, near, NEAR, here


def described(link_id: int) -> str:
    """0: there is none."""
    return f"link {link_id}" if link_id else "no link"
