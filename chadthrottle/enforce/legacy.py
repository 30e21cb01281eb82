"""Attachments without links: BPF_PROG_ATTACH, which outlives everything until somebody detaches.

So each is recorded before it is made: the program is pinned below links/, under the hook's name, and the map
`placement` says on which cgroup. Whoever removes the pins detaches what they record first, also what a command
left that was killed half way.
"""

import errno
from pathlib import Path

from chadthrottle import cgroup
from chadthrottle.bpf.constants import AttachType
from chadthrottle.bpf.errors import AttachError, BpfError
from chadthrottle.bpf.maps import Map
from chadthrottle.bpf.programs import Program

__all__ = ["CGROUP_ID", "IS_LEGACY", "detach_recorded", "read_placement"]

CGROUP_ID, IS_LEGACY = 0, 1
"""Keys of the map `placement`."""

_ATTACH_TYPES = {
    "egress": AttachType.BPF_CGROUP_INET_EGRESS,
    "ingress": AttachType.BPF_CGROUP_INET_INGRESS,
    "sockops": AttachType.BPF_CGROUP_SOCK_OPS,
    "sock_create": AttachType.BPF_CGROUP_INET_SOCK_CREATE,
}


def read_placement(placement: Map, key: int) -> int:
    """0 if it is not there: other versions knew less."""
    return int.from_bytes(placement.lookup(key.to_bytes(4, "little")) or b"", "little")


def detach_recorded(directory: Path) -> None:
    """Detach what the pins in `directory` record. Nothing is attached, or recorded: nothing to do. Raises BpfError."""
    where = _recorded_place(directory / "maps" / "placement")
    if where is None:
        return
    # Only here: most machines have links, and every command imports this module.
    from chadthrottle.bpf.cgroup_legacy import LegacyCgroupLink

    for name, attach_type in _ATTACH_TYPES.items():
        path = directory / "links" / name
        if not path.exists():
            continue
        with Program.open_pinned(path) as program:
            try:
                LegacyCgroupLink.adopt(program, where, attach_type).close()  # not pinned: that detaches
            except AttachError as error:
                if error.errno != errno.ENOENT:  # killed before it attached, or the cgroup is gone
                    raise


def _recorded_place(placement: Path) -> Path | None:
    try:
        opened = Map.open_pinned(placement)
    except BpfError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    with opened as values:
        if not read_placement(values, IS_LEGACY):
            return None
        return cgroup.find(read_placement(values, CGROUP_ID))
