"""Map: a BPF map."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from chadthrottle.bpf import attr, map_compat, percpu
from chadthrottle.bpf.constants import BPF_OBJ_NAME_LEN, BpfCmd, MapFlag
from chadthrottle.bpf.descriptor import obj_get, require_kind
from chadthrottle.bpf.info import MapInfo, fd_by_id, map_info
from chadthrottle.bpf.map_batch import BatchMap
from chadthrottle.bpf.memlock import retry_unlocked
from chadthrottle.bpf.syscall import bpf_errno

__all__ = ["Map", "kernel_name"]


def kernel_name(name: str) -> bytes:
    """What the kernel takes for a name: ASCII letters, digits, `_` and `.`, at most 15 bytes.

    Anything else is EINVAL (bpf_obj_name_cpy in kernel/bpf/syscall.c; `.` since Linux 5.2), so it
    becomes `_`.
    """
    allowed = (c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name)
    return "".join(allowed).encode()[: BPF_OBJ_NAME_LEN - 1]


class Map(BatchMap):
    """A map in the kernel; owns its descriptor.

    Keys and values are `bytes` of exactly the map's sizes; anything else is a ValueError before the
    kernel sees it. A value of a map of maps, programs, sockets or cgroups is a 4-byte descriptor
    when written and an id when read. sk_storage is keyed by a socket's descriptor, task_storage by a
    pidfd. Per-CPU maps take the `…_percpu` methods for values and the plain ones for the rest.

    `name` is the object's symbol, not cut to 15 bytes, except for a map opened by pin or id.
    """

    def __init__(
        self,
        fd: int,
        name: str,
        map_type: int,
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int = 0,
    ) -> None:
        """Takes over `fd`. The sizes must be the map's own: buffers are made by them."""
        super().__init__(fd, name, map_type, key_size, value_size, max_entries)
        self.flags = flags

    def __repr__(self) -> str:
        return f"Map({self.name!r}, fd={self._fd})"

    @classmethod
    def create(
        cls,
        name: str,
        map_type: int,
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int = 0,
        *,
        btf_fd: int = 0,
        btf_key_type_id: int = 0,
        btf_value_type_id: int = 0,
        inner_map_fd: int = 0,
        numa_node: int | None = None,
        map_extra: int = 0,
    ) -> "Map":
        """BPF_MAP_CREATE. Raises BpfError.

        `max_entries` is adjusted as `map_compat.adjusted_max_entries` says. `numa_node` sets
        BPF_F_NUMA_NODE. Kernels before 5.11 charge RLIMIT_MEMLOCK: it is lifted when they refuse.
        """
        max_entries = map_compat.adjusted_max_entries(map_type, max_entries)
        if numa_node is not None:
            flags |= MapFlag.BPF_F_NUMA_NODE
        request = attr.MapCreate(
            map_type=map_type,
            key_size=key_size,
            value_size=value_size,
            max_entries=max_entries,
            map_flags=flags,
            inner_map_fd=inner_map_fd,
            numa_node=numa_node or 0,
            map_name=kernel_name(name),
            btf_fd=btf_fd,
            btf_key_type_id=btf_key_type_id,
            btf_value_type_id=btf_value_type_id,
            map_extra=map_extra,
        )
        fd, number = retry_unlocked(lambda: bpf_errno(BpfCmd.BPF_MAP_CREATE, request))
        if number:
            raise map_compat.creation_failed(name, map_type, max_entries, value_size, number)
        return cls(fd, name, map_type, key_size, value_size, max_entries, flags)

    @classmethod
    def open_pinned(cls, path: Path | str, *, file_flags: int = 0) -> "Map":
        """The map pinned at `path`. `file_flags`: 0, BPF_F_RDONLY or BPF_F_WRONLY. Raises BpfError:
        ENOENT when nothing is there, EINVAL when it is not a map.
        """
        return cls._adopt(obj_get(path, file_flags), path)

    @classmethod
    def by_id(cls, map_id: int) -> "Map":
        """The map with this id. Raises BpfError (ENOENT: gone)."""
        return cls._adopt(fd_by_id(BpfCmd.BPF_MAP_GET_FD_BY_ID, map_id))

    @classmethod
    def _adopt(cls, fd: int, pin: Path | str | None = None) -> "Map":
        try:
            if pin is not None:
                require_kind(fd, "map", pin)
            info = map_info(fd)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, info.name, info.type, info.key_size, info.value_size, info.max_entries, info.flags)

    def info(self) -> MapInfo:
        """The kernel's own account of it. Raises BpfError."""
        return map_info(self.fd)

    def check_compatible(
        self,
        map_type: int,
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int = 0,
        *,
        map_extra: int = 0,
        where: Path | str = "",
    ) -> None:
        """Compare with what an object declares. Raises IncompatibleMapError naming every difference,
        and `where` the map is pinned.
        """
        wanted = map_compat.Declared(map_type, key_size, value_size, max_entries, flags, map_extra)
        map_compat.check(self.name, self.info(), wanted, str(where))

    def freeze(self) -> None:
        """BPF_MAP_FREEZE: no more writes from user space (Linux 5.2). Raises BpfError (EBUSY: mapped
        writable or being written).
        """
        _, number = bpf_errno(BpfCmd.BPF_MAP_FREEZE, attr.MapElem(map_fd=self.fd))
        if number:
            raise self._failed(BpfCmd.BPF_MAP_FREEZE, number)

    def lookup(self, key: bytes, flags: int = 0) -> bytes | None:
        """The value, or None if there is none. A queue or stack has the key b"" and is peeked at.

        Raises BpfError, and ValueError for a key of the wrong size.
        """
        return self._plain()._read(BpfCmd.BPF_MAP_LOOKUP_ELEM, key, flags)

    def update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """Create or replace an element; `flags` is an ElemFlag. On a queue or stack (key b""): push.

        Raises BpfError: EEXIST under BPF_NOEXIST, ENOENT under BPF_EXIST, E2BIG when full; and
        ValueError for a key or value of the wrong size.
        """
        self._plain()._write(key, value, flags)

    def delete(self, key: bytes) -> bool:
        """Delete an element; False if there was none. Raises BpfError: EINVAL for arrays."""
        return self._remove(key)

    def lookup_and_delete(self, key: bytes, flags: int = 0) -> bytes | None:
        """Take an element out in one step: queue and stack (key b"": pop) since Linux 4.20, hash
        since 5.14. None if there was none. Raises BpfError (ENOTSUPP).
        """
        return self._plain()._read(BpfCmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, key, flags)

    def keys(self) -> Iterator[bytes]:
        """Every key once, in the kernel's order; the caller may delete as it goes.

        A key that is there throughout is seen; one that comes or goes meanwhile may be. A deletion by
        others can send the kernel's walk back to its start: the walk gives up with BpfError (EAGAIN)
        after 8 * max_entries + 1024 steps.
        """
        return self._walk()

    def items(self, batch: int = 512) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of every element, `batch` to a system call where map and kernel can.

        As `keys`; elements deleted meanwhile are left out.
        """
        return self._plain()._items(batch)

    def update_batch(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Create or replace many elements. Not atomic: a BpfError says how many were done."""
        self._plain()._write_all(list(pairs))

    def delete_batch(self, keys: Iterable[bytes]) -> int:
        """Delete many elements, passing over absent ones; how many there were. Raises BpfError."""
        return self._remove_all(list(keys))

    def lookup_percpu(self, key: bytes) -> list[bytes] | None:
        """The element's values, one per possible CPU, or None. Raises BpfError, ValueError."""
        return self._split(self._percpu()._read(BpfCmd.BPF_MAP_LOOKUP_ELEM, key, 0))

    def lookup_and_delete_percpu(self, key: bytes) -> list[bytes] | None:
        """As `lookup_and_delete`, of a per-CPU hash."""
        return self._split(self._percpu()._read(BpfCmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, key, 0))

    def update_percpu(self, key: bytes, values: Sequence[bytes], flags: int = 0) -> None:
        """Set the values of all possible CPUs. Raises BpfError, ValueError."""
        self._percpu()._write(key, percpu.join(values, self.value_size, self.name), flags)

    def items_percpu(self, batch: int = 512) -> Iterator[tuple[bytes, list[bytes]]]:
        """As `items`, with one value per possible CPU."""
        for key, raw in self._percpu()._items(batch):
            yield key, percpu.split(raw, self.value_size)

    def _split(self, raw: bytes | None) -> list[bytes] | None:
        return None if raw is None else percpu.split(raw, self.value_size)

    def _plain(self) -> Self:
        if self.map_type in percpu.PERCPU_MAP_TYPES:
            raise ValueError(f"map {self.name} is per-CPU: use the _percpu methods")
        return self

    def _percpu(self) -> Self:
        if self.map_type not in percpu.PERCPU_MAP_TYPES:
            raise ValueError(f"map {self.name} is not per-CPU")
        return self
