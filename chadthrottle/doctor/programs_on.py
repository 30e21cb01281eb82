"""Which BPF programs sit on the cgroups from a program's own up to the root."""

import errno
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from chadthrottle import cgroup
from chadthrottle.bpf.cgroupfs import ancestors, open_cgroup
from chadthrottle.bpf.constants import AttachFlag, AttachType, BpfCmd
from chadthrottle.bpf.errors import BpfError
from chadthrottle.bpf.info import ids
from chadthrottle.bpf.links import Link
from chadthrottle.bpf.query import AttachedProgram, query_cgroup
from chadthrottle.doctor.check import Context
from chadthrottle.errors import ChadthrottleError

__all__ = ["OURS", "HookOn", "detach_command", "hook_name", "survey", "target_cgroup", "way_up"]

OURS = (
    AttachType.BPF_CGROUP_INET_EGRESS,
    AttachType.BPF_CGROUP_INET_INGRESS,
    AttachType.BPF_CGROUP_SOCK_OPS,
    AttachType.BPF_CGROUP_INET_SOCK_CREATE,
)
"""The hooks that limits take (enforce/hooks.py)."""
_ALL = tuple(each for each in AttachType if each.name.startswith("BPF_CGROUP_"))


class HookOn(NamedTuple):
    """A hook of a cgroup that has programs."""

    path: Path
    hook: AttachType
    flags: AttachFlag
    programs: tuple[AttachedProgram, ...]
    links: dict[int, int]
    """The links that hold them, by program id; a program that is not in it was attached without one."""

    def lines(self) -> list[str]:
        """For --verbose: one line a program."""
        flags = flags_name(self.flags)
        return [
            f"{self.path}: {hook_name(self.hook)}: program {each}, "
            + (f"link {self.links[each.id]}" if each.id in self.links else "no link")
            + f", attach flags {flags}"
            for each in self.programs
        ]


def target_cgroup(context: Context) -> Path | None:
    """The cgroup of the program asked about; None if there is none, or if it is gone."""
    if context.pid is None:
        return None
    try:
        return cgroup.path_of(context.pid)
    except ChadthrottleError:  # told by the checks of the target
        return None


def way_up(path: Path) -> list[Path]:
    """The cgroup and those above, the root last."""
    return [path, *ancestors(path)]


def survey(paths: Sequence[Path]) -> list[HookOn]:
    """The hooks that have programs, cgroup by cgroup. A cgroup that is gone has none. Raises BpfError."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            found += _hooks_on(path)
    if not found:
        return []
    links = _links()
    return [
        each._replace(links={one.id: links[key] for one in each.programs if (key := _key(each, one.id)) in links})
        for each in found
    ]


def hook_name(hook: AttachType) -> str:
    """As bpftool writes it."""
    return hook.name.removeprefix("BPF_").lower()


def flags_name(flags: AttachFlag) -> str:
    """As read: an exclusive program has none."""
    return flags.name or hex(flags) if flags else "0 (exclusive)"


def detach_command(on: HookOn, program: AttachedProgram) -> str:
    """What takes this program off. systemd's names have backslashes."""
    if program.id in on.links:
        return f"sudo bpftool link detach id {on.links[program.id]}"
    return f"sudo bpftool cgroup detach {shlex.quote(str(on.path))} {hook_name(on.hook)} id {program.id}"


def _hooks_on(path: Path) -> list[HookOn]:
    found = []
    try:
        with open_cgroup(path) as directory:
            for hook in _ALL:
                try:
                    attached = query_cgroup(directory.fd, hook)
                except BpfError as error:
                    if error.errno == errno.EINVAL:  # a hook that this kernel does not have
                        continue
                    raise
                if attached.programs:
                    found.append(HookOn(path, hook, attached.flags, attached.programs, {}))
    except BpfError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
    return found


def _links() -> dict[tuple[int, int, int], int]:
    """The cgroup links there are: (cgroup id, attach type, program id) to link id."""
    found: dict[tuple[int, int, int], int] = {}
    try:
        for link_id in ids(BpfCmd.BPF_LINK_GET_NEXT_ID):
            with suppress(BpfError):  # gone since
                with Link.by_id(link_id) as link:
                    info = link.info()
                if info.cgroup_id and info.attach_type is not None:
                    found[info.cgroup_id, info.attach_type, info.program_id] = info.id
    except BpfError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):  # before Linux 5.8, or without CAP_SYS_ADMIN
            raise
    return found


def _key(on: HookOn, program_id: int) -> tuple[int, int, int]:
    return on.path.stat().st_ino, on.hook, program_id
