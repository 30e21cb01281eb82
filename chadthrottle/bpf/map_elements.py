"""Elements of a map as raw bytes: the only code that gives the kernel pointers to keys and values.

The kernel copies `key_size` bytes from the key and the map's element size from or to the value,
whatever our buffers hold; so every buffer is made here, to the size of the map, and every input is
checked against it first.
"""

import ctypes
import errno
from collections.abc import Iterator

from chadthrottle.bpf import attr, percpu
from chadthrottle.bpf.constants import BpfCmd, MapType
from chadthrottle.bpf.descriptor import Descriptor
from chadthrottle.bpf.errors import ENOTSUPP, BpfError
from chadthrottle.bpf.map_compat import type_name
from chadthrottle.bpf.syscall import bpf_errno, failure

__all__ = ["RawMap"]

_UPDATES = (BpfCmd.BPF_MAP_UPDATE_ELEM, BpfCmd.BPF_MAP_UPDATE_BATCH)
_PLAIN_ARRAYS = (MapType.BPF_MAP_TYPE_ARRAY, MapType.BPF_MAP_TYPE_PERCPU_ARRAY)


class RawMap(Descriptor):
    """The part of Map that copies single elements. A per-CPU value is its `percpu.room` bytes here.

    The descriptor is asked for at each call: a closed map is a ValueError, and never another map that
    got the same number and has larger values.
    """

    def __init__(self, fd: int, name: str, map_type: int, key_size: int, value_size: int, max_entries: int) -> None:
        super().__init__(fd)
        self.name = name
        self.map_type = map_type
        self.key_size = key_size
        self.value_size = value_size
        self.max_entries = max_entries

    @property
    def _value_room(self) -> int:
        """Bytes the kernel copies for one value: bpf_map_value_size() in kernel/bpf/syscall.c."""
        if self.map_type in percpu.PERCPU_MAP_TYPES:
            return percpu.room(self.value_size)
        return self.value_size

    def _check(self, key: bytes, value: bytes | None = None) -> None:
        """Raises ValueError when the key or the value does not have the map's size."""
        if len(key) != self.key_size:
            raise ValueError(f"a key of map {self.name} has {self.key_size} bytes, not {len(key)}")
        if value is not None and len(value) != self._value_room:
            raise ValueError(f"a value of map {self.name} has {self._value_room} bytes, not {len(value)}")

    def _key_buffer(self, key: bytes) -> "ctypes.Array[ctypes.c_char] | None":
        """A map without keys (queue, stack, bloom filter) wants a null pointer. Raises ValueError."""
        self._check(key)
        return attr.buffer_from(key) if self.key_size else None

    def _failed(self, command: BpfCmd, number: int) -> BpfError:
        """The error for `command`, naming the map, with the cause where errno has a known one."""
        hint = None
        if number == errno.E2BIG and command in _UPDATES:
            hint = f"The map is full or the index too large: max_entries is {self.max_entries}."
        elif number in (ENOTSUPP, errno.EOPNOTSUPP):
            hint = f"Maps of type {type_name(self.map_type)} have no such operation on this kernel."
        elif number == errno.EPERM:
            hint = "The map is frozen, or its descriptor was opened read-only or write-only."
        return failure(command.name, number, f"of map {self.name}", hint)

    def _read(self, command: BpfCmd, key: bytes, flags: int) -> bytes | None:
        """BPF_MAP_LOOKUP_ELEM or BPF_MAP_LOOKUP_AND_DELETE_ELEM; None for ENOENT. Raises BpfError."""
        room = self._value_room
        key_buffer, value = self._key_buffer(key), (ctypes.c_char * max(1, room))()
        request = attr.MapElem(map_fd=self.fd, key=attr.address(key_buffer), value=attr.address(value), flags=flags)
        _, number = bpf_errno(command, request)
        if number == errno.ENOENT:
            return None
        if number:
            raise self._failed(command, number)
        return value.raw[:room]

    def _write(self, key: bytes, value: bytes, flags: int) -> None:
        """BPF_MAP_UPDATE_ELEM. Raises BpfError."""
        self._check(key, value)
        key_buffer, value_buffer = self._key_buffer(key), attr.buffer_from(value)
        request = attr.MapElem(
            map_fd=self.fd, key=attr.address(key_buffer), value=attr.address(value_buffer), flags=flags
        )
        _, number = bpf_errno(BpfCmd.BPF_MAP_UPDATE_ELEM, request)
        if number:
            raise self._failed(BpfCmd.BPF_MAP_UPDATE_ELEM, number)

    def _remove(self, key: bytes) -> bool:
        """BPF_MAP_DELETE_ELEM; False for ENOENT. Raises BpfError."""
        key_buffer = self._key_buffer(key)
        request = attr.MapElem(map_fd=self.fd, key=attr.address(key_buffer))
        _, number = bpf_errno(BpfCmd.BPF_MAP_DELETE_ELEM, request)
        if number == errno.ENOENT:
            return False
        if number:
            raise self._failed(BpfCmd.BPF_MAP_DELETE_ELEM, number)
        return True

    def _patience(self) -> int:
        """How many keys an iteration may be shown before it is called endless."""
        return 8 * self.max_entries + 1024

    def _walk(self) -> Iterator[bytes]:
        """See Map.keys."""
        if self.map_type in _PLAIN_ARRAYS:
            yield from (index.to_bytes(4, "little") for index in range(self.max_entries))
            return
        seen: set[bytes] = set()
        current: bytes | None = None
        following = self._next_key(None)
        for _ in range(self._patience()):
            if following is None:
                return
            current = following
            # Fetched before `current` is handed out, so that the caller may delete it.
            following = self._next_key(current)
            if current not in seen:
                seen.add(current)
                yield current
        raise self._endless()

    def _next_key(self, key: bytes | None) -> bytes | None:
        key_buffer = None if key is None else self._key_buffer(key)
        following = (ctypes.c_char * max(1, self.key_size))()
        request = attr.MapElem(map_fd=self.fd, key=attr.address(key_buffer), value=attr.address(following))
        _, number = bpf_errno(BpfCmd.BPF_MAP_GET_NEXT_KEY, request)
        if number == errno.ENOENT:
            return None
        if number:
            raise self._failed(BpfCmd.BPF_MAP_GET_NEXT_KEY, number)
        return following.raw[: self.key_size]

    def _endless(self) -> BpfError:
        """The error for an iteration past `patience`."""
        return failure(
            BpfCmd.BPF_MAP_GET_NEXT_KEY.name,
            errno.EAGAIN,
            f"of map {self.name}",
            "Keys are deleted faster than they can be read: each deletion restarts the kernel's walk.",
        )
