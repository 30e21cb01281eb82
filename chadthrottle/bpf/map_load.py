"""MapSpec → Map: created, filled, frozen, or found pinned."""

import errno
from contextlib import ExitStack
from pathlib import Path

from chadthrottle.bpf.constants import MapFlag, MapType
from chadthrottle.bpf.errors import BpfError
from chadthrottle.bpf.map_compat import NO_BTF_MAP_TYPES
from chadthrottle.bpf.maps import Map
from chadthrottle.bpf.percpu import PERCPU_MAP_TYPES, possible_cpus
from chadthrottle.bpf.spec import MapSpec
from chadthrottle.errors import UsageError

__all__ = ["DEFAULT_MAP_BYTES_LIMIT", "create_map", "open_shared"]

DEFAULT_MAP_BYTES_LIMIT = 1 << 30
"""A damaged or hostile object could otherwise ask the kernel for all memory at once."""

_ALLOCATED_AT_ONCE = frozenset(
    {
        MapType.BPF_MAP_TYPE_HASH,
        MapType.BPF_MAP_TYPE_PERCPU_HASH,
        MapType.BPF_MAP_TYPE_LRU_HASH,
        MapType.BPF_MAP_TYPE_LRU_PERCPU_HASH,
        MapType.BPF_MAP_TYPE_ARRAY,
        MapType.BPF_MAP_TYPE_PERCPU_ARRAY,
        MapType.BPF_MAP_TYPE_QUEUE,
        MapType.BPF_MAP_TYPE_STACK,
        MapType.BPF_MAP_TYPE_STACK_TRACE,
    }
)
# A trie has no table; a bloom filter has some bits an element.
_BYTES_AN_ENTRY: dict[int, int] = {MapType.BPF_MAP_TYPE_LPM_TRIE: 0, MapType.BPF_MAP_TYPE_BLOOM_FILTER: 2}
_RING_BUFFERS = (MapType.BPF_MAP_TYPE_RINGBUF, MapType.BPF_MAP_TYPE_USER_RINGBUF)


def create_map(spec: MapSpec, btf_fd: int, bytes_limit: int) -> Map:
    """Create, fill and freeze. Raises BpfError, and UsageError above `bytes_limit`."""
    if _bytes(spec) > bytes_limit:
        raise UsageError(
            f"map {spec.name} would take {_bytes(spec) >> 20} MiB, more than the limit of {bytes_limit >> 20}",
            hint="If that is meant, raise map_bytes_limit (check and load: --map-memory MIB).",
        )
    with ExitStack() as stack:
        inner_fd = 0
        if spec.inner is not None:
            # Only a template: the kernel copies its shape and does not keep it.
            inner = stack.enter_context(create_map(spec.inner, btf_fd, bytes_limit))
            inner_fd = inner.fd
        made = _create(spec, btf_fd, inner_fd)
        with ExitStack() as undo:
            undo.callback(made.close)
            if spec.contents is not None:
                made.update(bytes(4), spec.contents)
                if spec.read_only:
                    made.freeze()
            undo.pop_all()
        return made


def open_shared(spec: MapSpec, pin: Path) -> Map | None:
    """The map another object has pinned at `pin`; None if there is none.

    Raises IncompatibleMapError when it is not the map that `spec` declares, BpfError.
    """
    try:
        found = Map.open_pinned(pin)
    except BpfError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    try:
        found.check_compatible(
            spec.type,
            spec.key_size,
            spec.value_size,
            spec.max_entries,
            spec.flags,
            map_extra=spec.map_extra,
            where=pin,
        )
    except BaseException:
        found.close()
        raise
    found.name = spec.name
    return found


def _create(spec: MapSpec, btf_fd: int, inner_fd: int) -> Map:
    typed = spec.type not in NO_BTF_MAP_TYPES and spec.btf_value_type_id != 0 and btf_fd != 0

    def attempt(with_btf: bool) -> Map:
        return Map.create(
            spec.kernel_name,
            spec.type,
            spec.key_size,
            spec.value_size,
            spec.max_entries,
            spec.flags,
            btf_fd=btf_fd if with_btf else 0,
            btf_key_type_id=spec.btf_key_type_id if with_btf else 0,
            btf_value_type_id=spec.btf_value_type_id if with_btf else 0,
            inner_map_fd=inner_fd,
            numa_node=spec.numa_node if spec.flags & MapFlag.BPF_F_NUMA_NODE else None,
            map_extra=spec.map_extra,
        )

    try:
        made = attempt(typed)
    except BpfError as error:
        # A map type may take no BTF (ENOTSUPP, map_check_no_btf() in kernel/bpf/syscall.c), or not this (EINVAL: a
        # hash whose key has a size and no type, …). BTF is for showing what is inside; maps do without, as with
        # libbpf. Where the kernel needs it (a spin lock, socket storage) it refuses again, or the program.
        if not typed or error.errno == errno.EPERM:
            raise
        made = attempt(False)
    made.name = spec.name
    return made


def _bytes(spec: MapSpec) -> int:
    """What the kernel allocates when the map is created, roughly."""
    if spec.type in _RING_BUFFERS:
        return spec.max_entries
    if spec.type in _ALLOCATED_AT_ONCE and not spec.flags & MapFlag.BPF_F_NO_PREALLOC:
        copies = possible_cpus() if spec.type in PERCPU_MAP_TYPES else 1
        return spec.max_entries * (spec.key_size + (spec.value_size + 7 & ~7) * copies)
    # What grows with use still has a table of buckets or pointers from the start.
    return spec.max_entries * _BYTES_AN_ENTRY.get(spec.type, 16)
