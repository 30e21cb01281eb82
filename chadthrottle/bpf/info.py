"""What the kernel says of an object: BPF_OBJ_GET_INFO_BY_FD, and walking all ids."""

import ctypes
import errno
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from chadthrottle.bpf import attr
from chadthrottle.bpf.constants import BpfCmd
from chadthrottle.bpf.syscall import bpf, bpf_errno, failure

__all__ = [
    "MapInfo",
    "ProgramInfo",
    "fd_by_id",
    "ids",
    "link_info",
    "map_info",
    "object_info",
    "program_info",
]

_Structure = TypeVar("_Structure", bound=ctypes.Structure)


class ProgramInfo(NamedTuple):
    """struct bpf_prog_info, the parts people ask for."""

    id: int
    type: int
    name: str
    tag: str
    """The digest of the final instructions, 16 hex digits."""
    map_ids: tuple[int, ...]
    btf_id: int
    load_time_ns: int
    """CLOCK_BOOTTIME when it was loaded."""
    run_count: int
    """Zero unless kernel.bpf_stats_enabled."""
    run_time_ns: int
    verified_insns: int
    attach_btf_id: int


class MapInfo(NamedTuple):
    """struct bpf_map_info."""

    id: int
    type: int
    name: str
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    btf_id: int
    btf_key_type_id: int
    btf_value_type_id: int
    map_extra: int


def object_info(fd: int, info: _Structure) -> _Structure:
    """BPF_OBJ_GET_INFO_BY_FD into `info`, which may carry buffer addresses. Raises BpfError."""
    request = attr.GetInfo(bpf_fd=fd, info_len=ctypes.sizeof(info), info=ctypes.addressof(info))
    bpf(BpfCmd.BPF_OBJ_GET_INFO_BY_FD, request)
    return info


def program_info(fd: int) -> ProgramInfo:
    """Info of the program behind `fd`. Raises BpfError."""
    raw = object_info(fd, attr.ProgInfo())
    map_ids: tuple[int, ...] = ()
    if raw.nr_map_ids:
        room = (ctypes.c_uint32 * raw.nr_map_ids)()
        filled = attr.ProgInfo(nr_map_ids=raw.nr_map_ids, map_ids=ctypes.addressof(room))
        object_info(fd, filled)
        map_ids = tuple(room)
    return ProgramInfo(
        id=raw.id,
        type=raw.type,
        name=raw.name.decode(errors="replace"),
        tag=bytes(raw.tag).hex(),
        map_ids=map_ids,
        btf_id=raw.btf_id,
        load_time_ns=raw.load_time,
        run_count=raw.run_cnt,
        run_time_ns=raw.run_time_ns,
        verified_insns=raw.verified_insns,
        attach_btf_id=raw.attach_btf_id,
    )


def map_info(fd: int) -> MapInfo:
    """Info of the map behind `fd`. Raises BpfError."""
    raw = object_info(fd, attr.MapInfo())
    return MapInfo(
        id=raw.id,
        type=raw.type,
        name=raw.name.decode(errors="replace"),
        key_size=raw.key_size,
        value_size=raw.value_size,
        max_entries=raw.max_entries,
        flags=raw.map_flags,
        btf_id=raw.btf_id,
        btf_key_type_id=raw.btf_key_type_id,
        btf_value_type_id=raw.btf_value_type_id,
        map_extra=raw.map_extra,
    )


def link_info(fd: int) -> attr.LinkInfo:
    """struct bpf_link_info of the link behind `fd`. Raises BpfError."""
    return object_info(fd, attr.LinkInfo())


def ids(command: BpfCmd) -> Iterator[int]:
    """Every id of a BPF_*_GET_NEXT_ID command, ascending. Raises BpfError (EPERM …)."""
    request = attr.GetId(id=0)
    while True:
        _, number = bpf_errno(command, request)
        if number == errno.ENOENT:
            return
        if number:
            raise failure(command.name, number)
        yield request.next_id
        request.id = request.next_id


def fd_by_id(command: BpfCmd, object_id: int) -> int:
    """A descriptor from a BPF_*_GET_FD_BY_ID command. Raises BpfError (ENOENT: gone)."""
    return bpf(command, attr.GetId(id=object_id), f"of id {object_id}")
