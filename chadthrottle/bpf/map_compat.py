"""What a map declaration means to the kernel: adjusted sizes, BTF, and comparing with a pinned map."""

import errno
import mmap
from typing import NamedTuple

from chadthrottle.bpf import percpu
from chadthrottle.bpf.constants import BpfCmd, MapFlag, MapType
from chadthrottle.bpf.errors import BpfError, IncompatibleMapError
from chadthrottle.bpf.info import MapInfo
from chadthrottle.bpf.syscall import failure

__all__ = ["NO_BTF_MAP_TYPES", "Declared", "adjusted_max_entries", "check", "type_name"]

NO_BTF_MAP_TYPES = frozenset(
    {
        MapType.BPF_MAP_TYPE_PERF_EVENT_ARRAY,
        MapType.BPF_MAP_TYPE_CGROUP_ARRAY,
        MapType.BPF_MAP_TYPE_STACK_TRACE,
        MapType.BPF_MAP_TYPE_ARRAY_OF_MAPS,
        MapType.BPF_MAP_TYPE_HASH_OF_MAPS,
        MapType.BPF_MAP_TYPE_DEVMAP,
        MapType.BPF_MAP_TYPE_DEVMAP_HASH,
        MapType.BPF_MAP_TYPE_CPUMAP,
        MapType.BPF_MAP_TYPE_XSKMAP,
        MapType.BPF_MAP_TYPE_SOCKMAP,
        MapType.BPF_MAP_TYPE_SOCKHASH,
        MapType.BPF_MAP_TYPE_QUEUE,
        MapType.BPF_MAP_TYPE_STACK,
        MapType.BPF_MAP_TYPE_RINGBUF,
        MapType.BPF_MAP_TYPE_USER_RINGBUF,
        MapType.BPF_MAP_TYPE_ARENA,
    }
)
"""Map types that take no key and value BTF: their values are the kernel's, or they have no keys."""

_RING_BUFFERS = (MapType.BPF_MAP_TYPE_RINGBUF, MapType.BPF_MAP_TYPE_USER_RINGBUF)
_DEVMAPS = (MapType.BPF_MAP_TYPE_DEVMAP, MapType.BPF_MAP_TYPE_DEVMAP_HASH)
_LRU_HASHES = (MapType.BPF_MAP_TYPE_LRU_HASH, MapType.BPF_MAP_TYPE_LRU_PERCPU_HASH)

# Belong to the descriptor or the request and are not kept: bpf_map_flags_retain_permanent() and
# map_create() in kernel/bpf/syscall.c.
_NOT_KEPT = MapFlag.BPF_F_RDONLY | MapFlag.BPF_F_WRONLY | MapFlag.BPF_F_TOKEN_FD


class Declared(NamedTuple):
    """What an object says a map is."""

    map_type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    map_extra: int


def adjusted_max_entries(map_type: int, max_entries: int) -> int:
    """`max_entries` as the kernel wants it.

    A perf event array with 0 gets one entry per possible CPU; a ring buffer's size in bytes is
    rounded up to a power of two of at least a page, as the kernel demands. Others stay as they are.
    """
    if map_type == MapType.BPF_MAP_TYPE_PERF_EVENT_ARRAY and max_entries == 0:
        return percpu.possible_cpus()
    if map_type in _RING_BUFFERS and max_entries:
        # A page is a power of two itself, so this is a multiple of it.
        return int(max(mmap.PAGESIZE, 1 << (max_entries - 1).bit_length()))
    return max_entries


def check(name: str, actual: MapInfo, wanted: Declared, where: str) -> None:
    """Raises IncompatibleMapError naming every attribute in which the map differs."""
    pairs = (
        ("type", type_name(actual.type), type_name(wanted.map_type)),
        ("key size", actual.key_size, wanted.key_size),
        ("value size", actual.value_size, wanted.value_size),
        ("max_entries", actual.max_entries, _kept_max_entries(wanted)),
        (
            "flags",
            hex(_comparable(actual.type, actual.flags)),
            hex(_comparable(wanted.map_type, wanted.flags)),
        ),
        ("map_extra", actual.map_extra, wanted.map_extra),
    )
    differences = [f"{what} {is_} instead of {want}" for what, is_, want in pairs if is_ != want]
    if differences:
        place = f"pinned at {where} " if where else ""
        raise IncompatibleMapError(
            f"the map {name} {place}is not the one the object declares: {', '.join(differences)}",
            hint="It was made by another version of the object: remove the pin, or pin elsewhere.",
        )


def _comparable(map_type: int, flags: int) -> int:
    if map_type in _DEVMAPS:
        # Added by dev_map_init_map() in kernel/bpf/devmap.c.
        flags |= MapFlag.BPF_F_RDONLY_PROG
    return int(flags & ~_NOT_KEPT)


def _kept_max_entries(wanted: Declared) -> int:
    entries = adjusted_max_entries(wanted.map_type, wanted.max_entries)
    if wanted.map_type in _LRU_HASHES and wanted.flags & MapFlag.BPF_F_NO_COMMON_LRU:
        # htab_map_alloc() in kernel/bpf/hashtab.c gives each CPU's list the same length.
        cpus = percpu.possible_cpus()
        rounded = -(-entries // cpus) * cpus
        return rounded if rounded < 1 << 32 else rounded - cpus
    return entries


def creation_failed(name: str, map_type: int, max_entries: int, value_size: int, number: int) -> BpfError:
    """The error of a refused BPF_MAP_CREATE."""
    hint = None
    if number == errno.EINVAL and not (max_entries and value_size):
        lacking = "max_entries" if value_size else "a value size"
        hint = f"It may lack {lacking}, which some objects leave to whoever loads them."
    elif number == errno.EINVAL:
        hint = f"This kernel does not know {type_name(map_type)}, or not with these sizes and flags."
    elif number in (errno.E2BIG, errno.ENOMEM):
        hint = "The map is larger than the kernel allows or has memory for."
    return failure(BpfCmd.BPF_MAP_CREATE.name, number, f"of map {name} ({type_name(map_type)})", hint)


def type_name(map_type: int) -> str:
    """`BPF_MAP_TYPE_HASH`, or the number of a type newer than this runtime."""
    try:
        return MapType(map_type).name
    except ValueError:
        return str(map_type)
