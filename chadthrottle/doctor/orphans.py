"""What of ours is in the kernel although no pins tell of it: somebody removed pins by hand, or unmounted bpffs.

Ours is a program that has the name of one of ours and shares maps that only ours have together. A name alone could be
anybody's.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from chadthrottle import cgroup
from chadthrottle.bpf.cgroup_legacy import LegacyCgroupLink
from chadthrottle.bpf.cgroupfs import mounts, open_cgroup
from chadthrottle.bpf.constants import AttachType, BpfCmd
from chadthrottle.bpf.descriptor import Descriptor
from chadthrottle.bpf.errors import AttachError, BpfError
from chadthrottle.bpf.info import fd_by_id, ids, map_info
from chadthrottle.bpf.links import links_of_program
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.query import program_ids

__all__ = ["Attachment", "attachments", "detach"]

_HOOKS = {
    "throttle_egress": AttachType.BPF_CGROUP_INET_EGRESS,
    "throttle_ingress": AttachType.BPF_CGROUP_INET_INGRESS,
    "pace_connection": AttachType.BPF_CGROUP_SOCK_OPS,
    "tag_new_socket": AttachType.BPF_CGROUP_INET_SOCK_CREATE,
}
_SHORT = {name[:15]: attach_type for name, attach_type in _HOOKS.items()}  # BPF_OBJ_NAME_LEN of uapi/linux/bpf.h
_MAPS = {"tags", "rules", "meters"}
"""At least two of these: each hook has them."""
_ENOUGH = 2

_WORKER_S = 1.0
_PAUSE_S = 0.03


class Attachment(NamedTuple):
    """A program of ours on a cgroup, by BPF_PROG_ATTACH, that no pin tells of."""

    program_id: int
    name: str
    attach_type: AttachType
    cgroup: Path
    limits: int
    """How many limits its maps have."""

    def __str__(self) -> str:
        hook = self.attach_type.name.removeprefix("BPF_CGROUP_").lower()
        return f'program {self.program_id} "{self.name}" on {self.cgroup} ({hook})'


def attachments() -> list[Attachment]:
    """All of them. Raises BpfError (EPERM: no CAP_SYS_ADMIN), KernelCannotError."""
    found = _look()
    # A link whose last holder is gone has no id any more while a worker of the kernel has yet to detach its program
    # (bpf_link_put() of kernel/bpf/syscall.c, Linux 5.7): for so long it looks like one of these.
    _within(_WORKER_S, lambda: not any(map(_is_there, found)))
    return [each for each in found if _is_there(each)]


def _look() -> list[Attachment]:
    suspects = dict(_suspects())
    if not suspects:
        return []
    for each in _recorded():
        suspects.pop(each, None)
    # A link ends with whoever holds it: a --foreground command, say.
    suspects = {number: about for number, about in suspects.items() if not any(links_of_program(number))}
    return list(_where(suspects)) if suspects else []


def detach(found: Attachment) -> None:
    """It may be gone. Raises BpfError."""
    try:
        with Program.by_id(found.program_id) as program:
            link = LegacyCgroupLink.adopt(program, found.cgroup, found.attach_type)
        try:
            link.detach()
        finally:
            link.leave()
    except BpfError as error:
        if error.exit_code == 3 or _is_there(found):
            raise


def _suspects() -> Iterator[tuple[int, tuple[str, AttachType, int]]]:
    for number in ids(BpfCmd.BPF_PROG_GET_NEXT_ID):
        try:
            with Program.by_id(number) as program:
                hook = _SHORT.get(program.name)
                if hook is None:
                    continue
                maps = _maps(program)
        except BpfError:  # gone meanwhile
            continue
        if len(_MAPS & maps.keys()) >= _ENOUGH:
            yield number, (program.name, hook, _entries(maps.get("rules", 0)))


def _maps(program: Program) -> dict[str, int]:
    found = {}
    for number in program.info().map_ids:
        with Descriptor(fd_by_id(BpfCmd.BPF_MAP_GET_FD_BY_ID, number)) as descriptor:
            found[map_info(descriptor.fd).name] = number
    return found


def _entries(map_id: int) -> int:
    from chadthrottle.bpf.maps import Map

    if not map_id:
        return 0
    with Map.by_id(map_id) as rules:
        return len(list(rules.keys()))


def _recorded() -> Iterator[int]:
    """The programs that pins tell of, in any bpffs that can be seen: another one may have limits of its own."""
    seen = set()
    for mount in mounts():
        if mount.filesystem == "bpf" and mount.device not in seen:
            seen.add(mount.device)
            for path in mount.mount_point.glob("**/v*/links/*"):
                yield from _program_of(path)
            for path in mount.mount_point.glob("**/v*/programs/*"):
                yield from _program_of(path)


def _program_of(path: Path) -> Iterator[int]:
    try:
        with Program.open_pinned(path) as program:
            yield program.info().id
    except BpfError:  # a link, mostly
        return


def _where(suspects: dict[int, tuple[str, AttachType, int]]) -> Iterator[Attachment]:
    for directory, _, _ in os.walk(cgroup.root()):
        try:
            with open_cgroup(directory) as opened:
                for attach_type in _HOOKS.values():
                    for number in program_ids(opened.fd, attach_type):
                        if number in suspects:
                            name, _, limits = suspects[number]
                            yield Attachment(number, name, attach_type, Path(directory), limits)
        except (AttachError, BpfError) as error:
            if isinstance(error, AttachError):  # removed meanwhile
                continue
            raise


def _within(seconds: float, done: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        time.sleep(_PAUSE_S)


def _is_there(found: Attachment) -> bool:
    try:
        with open_cgroup(found.cgroup) as opened:
            return found.program_id in program_ids(opened.fd, found.attach_type)
    except (AttachError, BpfError):
        return False
