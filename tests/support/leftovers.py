"""What a test must not leave behind: compare the machine before and after.

Meaningful under the kernel lock only: whatever appears meanwhile counts as the test's.
"""

import gc
import time
from dataclasses import dataclass

from chadthrottle.bpf import attr
from chadthrottle.bpf.constants import BpfCmd
from chadthrottle.bpf.descriptor import Descriptor
from chadthrottle.bpf.errors import BpfError
from chadthrottle.bpf.info import fd_by_id, ids, map_info, object_info
from chadthrottle.bpf.links import Link
from chadthrottle.bpf.programs import Program
from tests.support.bpffs import all_pins
from tests.support.cgroups import leftover_cgroups
from tests.support.network import leftover_network
from tests.support.patience import patient

# The kernel frees programs, maps and dead cgroups' attachments after a grace period, in a worker.
PATIENCE_SECONDS = patient(5)

COMMANDS = {
    "program": BpfCmd.BPF_PROG_GET_NEXT_ID,
    "map": BpfCmd.BPF_MAP_GET_NEXT_ID,
    "BTF object": BpfCmd.BPF_BTF_GET_NEXT_ID,
    "link": BpfCmd.BPF_LINK_GET_NEXT_ID,
}


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything a test could leave behind, by name."""

    kernel_objects: frozenset[tuple[str, int]]
    others: frozenset[str]

    @classmethod
    def now(cls) -> "Machine":
        """Look around."""
        objects = ((kind, number) for kind, command in COMMANDS.items() for number in ids(command))
        return cls(frozenset(objects), frozenset(all_pins() | leftover_cgroups() | leftover_network()))

    def additions(self, patience: float = PATIENCE_SECONDS) -> list[str]:
        """What is there now that was not then, once the kernel had its time."""
        deadline = time.monotonic() + patience
        pause = 0.001
        collected = False
        while True:
            now = Machine.now()
            others = now.others - self.others
            objects = {each for each in now.kernel_objects - self.kernel_objects if not is_a_modules(*each)}
            if not objects and not others:
                return []
            if time.monotonic() > deadline:
                return sorted(others) + [describe(*each) for each in sorted(objects)]
            if not collected:
                # An unclosed descriptor in a reference cycle is somebody's ResourceWarning, not a leak.
                gc.collect()
                collected = True
            time.sleep(pause)
            pause = min(2 * pause, 0.01)


@dataclass(frozen=True, slots=True)
class LetGo:
    """Kernel objects that were there when a test had ended, and not before."""

    test: str
    objects: frozenset[tuple[str, int]]
    until: float
    """On time.monotonic(): whatever exists then is left behind."""


class Dying:
    """Kernel objects that tests have let go of, as far as they still exist.

    The kernel frees them after a grace period of some 0.2 s (RCU tasks, for trampolines). The next tests do not mind
    them, for each compares the machine with what was there at its own beginning; so they need not wait.
    """

    def __init__(self) -> None:
        self._let_go: list[LetGo] = []

    def after(self, test: str, before: Machine) -> list[str]:
        """Once a test has ended: what it left behind for certain. Kernel objects are watched from now on."""
        now = Machine.now()
        if now.others - before.others:
            return before.additions()
        objects = {each for each in now.kernel_objects - before.kernel_objects if not is_a_modules(*each)}
        if objects:
            self._let_go.append(LetGo(test, frozenset(objects), time.monotonic() + PATIENCE_SECONDS))
        return []

    def overdue(self, now: Machine) -> list[str]:
        """What exists although the kernel had its time, with the test that made it."""
        remaining = (LetGo(each.test, each.objects & now.kernel_objects, each.until) for each in self._let_go)
        self._let_go = [each for each in remaining if each.objects]
        late = [each for each in self._let_go if time.monotonic() > each.until]
        if not late:
            return []
        self._let_go = [each for each in self._let_go if each not in late]
        # An unclosed descriptor in a reference cycle is somebody's ResourceWarning, not a leak.
        gc.collect()
        return [
            f"{text}, by {each.test}"
            for each in late
            for text in Machine(now.kernel_objects - each.objects, now.others).additions(PATIENCE_SECONDS)
        ]

    def rest(self) -> list[str]:
        """overdue(), once all of them had their time."""
        found: list[str] = []
        while self._let_go:
            found += self.overdue(Machine.now())
            time.sleep(0.01)
        return found


def is_a_modules(kind: str, number: int) -> bool:
    """Whether this is the BTF of a module, loaded because a test asked for a veth, say; those stay."""
    if kind != "BTF object":
        return False
    try:
        with Descriptor(fd_by_id(BpfCmd.BPF_BTF_GET_FD_BY_ID, number)) as descriptor:
            return bool(object_info(descriptor.fd, attr.BtfInfo()).kernel_btf)
    except BpfError:  # just gone
        return False


def describe(kind: str, number: int) -> str:
    """A kernel object for the message of a failed test."""
    try:
        return f"{kind} {number}{_details(kind, number)}"
    except BpfError:
        return f"{kind} {number} (just gone)"


def _details(kind: str, number: int) -> str:
    if kind == "program":
        with Program.by_id(number) as program:
            return f' "{program.name}" of type {program.prog_type}'
    if kind == "link":
        with Link.by_id(number) as link:
            info = link.info()
            return f" of type {info.type}, program {info.program_id}"
    if kind == "map":
        with Descriptor(fd_by_id(BpfCmd.BPF_MAP_GET_FD_BY_ID, number)) as descriptor:
            return f' "{map_info(descriptor.fd).name}"'
    return ""
