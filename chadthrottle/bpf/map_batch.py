"""Many elements per bpf(2): BPF_MAP_*_BATCH, or one by one where they are missing.

Batches came with Linux 5.6 (hash, array), 5.13 (per-CPU array), 5.15 … per map type. A type without
them answers ENOTSUPP, a kernel that does not know the command EINVAL, in both cases before it looks
at the buffers or at `count`.
"""

import ctypes
import errno
from collections.abc import Iterator, Sequence

from chadthrottle.bpf import attr
from chadthrottle.bpf.constants import BpfCmd
from chadthrottle.bpf.errors import ENOTSUPP, BpfError
from chadthrottle.bpf.map_elements import RawMap
from chadthrottle.bpf.syscall import bpf_errno

__all__ = ["BatchMap"]

_NO_BATCH = (ENOTSUPP, errno.EINVAL)
_MAX_BATCH_BYTES = 1 << 20
_MAX_FRUITLESS = 16

_Pairs = list[tuple[bytes, bytes]]


class BatchMap(RawMap):
    """The part of Map that copies many elements."""

    _batch_reads = True
    _batch_writes = True
    """False once the kernel said that this map has no batch operations."""

    def _items(self, batch: int) -> Iterator[tuple[bytes, bytes]]:
        """See Map.items; values are raw."""
        if self._batch_reads:
            # Whether there are batches shows in the first answer, before anything is handed out.
            yield from self._unique(self._read_batches(batch))
        if not self._batch_reads:
            for key in self._walk():
                value = self._read(BpfCmd.BPF_MAP_LOOKUP_ELEM, key, 0)
                if value is not None:
                    yield key, value

    def _unique(self, batches: Iterator[_Pairs]) -> Iterator[tuple[bytes, bytes]]:
        seen: set[bytes] = set()
        shown = 0
        for pairs in batches:
            shown += len(pairs)
            if shown > self._patience():
                raise self._endless()
            for key, value in pairs:
                if key not in seen:
                    seen.add(key)
                    yield key, value

    def _read_batches(self, batch: int) -> Iterator[_Pairs]:
        key_size, room = self.key_size, self._value_room
        size = max(1, min(batch, self.max_entries, _MAX_BATCH_BYTES // max(1, key_size + room)))
        # The position is a key for some types and a u32 for others (uapi: "opaque").
        position, after = ((ctypes.c_char * max(8, key_size))() for _ in range(2))
        started, fruitless = False, 0
        while True:
            keys = (ctypes.c_char * (size * key_size or 1))()
            values = (ctypes.c_char * (size * room or 1))()
            request = attr.MapBatch(
                in_batch=attr.address(position) if started else 0,
                out_batch=attr.address(after),
                keys=attr.address(keys),
                values=attr.address(values),
                count=size,
                map_fd=self.fd,
            )
            _, number = bpf_errno(BpfCmd.BPF_MAP_LOOKUP_BATCH, request)
            if number in _NO_BATCH and not started:
                self._batch_reads = False
                return
            if number == errno.ENOSPC and size < 2 * self.max_entries + 64:
                size *= 2  # one hash bucket holds more than the buffers
                continue
            if number not in (0, errno.ENOENT):
                raise self._failed(BpfCmd.BPF_MAP_LOOKUP_BATCH, number)
            count = min(request.count, size)
            raw_keys, raw_values = keys.raw, values.raw
            yield [
                (raw_keys[i * key_size : (i + 1) * key_size], raw_values[i * room : (i + 1) * room])
                for i in range(count)
            ]
            if number == errno.ENOENT:
                return
            if count:
                position, after, started, fruitless = after, position, True, 0
            else:  # the key the walk stood on went away, and a repetition found `count` at 0
                fruitless += 1
                if fruitless > _MAX_FRUITLESS:
                    raise self._endless()

    def _write_all(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """See Map.update_batch; values are raw."""
        for key, value in pairs:
            self._check(key, value)
        done = 0
        if self._batch_writes and pairs:
            keys = attr.buffer_from(b"".join(key for key, _ in pairs))
            values = attr.buffer_from(b"".join(value for _, value in pairs))
            command = BpfCmd.BPF_MAP_UPDATE_BATCH
            done, number = self._write_batch(command, attr.address(keys), attr.address(values), len(pairs))
            if number and (done or number not in _NO_BATCH):
                raise self._stopped(command, number, done, len(pairs))
        for index, (key, value) in enumerate(pairs[done:], done):
            try:
                self._write(key, value, 0)
            except BpfError as error:
                command = BpfCmd.BPF_MAP_UPDATE_ELEM
                raise self._stopped(command, error.errno, index, len(pairs)) from error

    def _remove_all(self, keys: Sequence[bytes]) -> int:
        """See Map.delete_batch."""
        for key in keys:
            self._check(key)
        buffer = attr.buffer_from(b"".join(keys))
        command = BpfCmd.BPF_MAP_DELETE_BATCH
        deleted = position = 0
        while self._batch_writes and position < len(keys):
            start = attr.address(buffer) + position * self.key_size
            done, number = self._write_batch(command, start, 0, len(keys) - position)
            deleted, position = deleted + done, position + done
            if number == errno.ENOENT:
                position += 1  # the batch ends at the first key that is not there
            elif number in _NO_BATCH and not done:
                break
            elif number:
                raise self._stopped(command, number, position, len(keys))
        return deleted + sum(self._remove(key) for key in keys[position:])

    def _write_batch(self, command: BpfCmd, keys: int, values: int, count: int) -> tuple[int, int]:
        """(elements done, errno)."""
        request = attr.MapBatch(keys=keys, values=values, count=count, map_fd=self.fd)
        _, number = bpf_errno(command, request)
        if not number:
            return count, 0
        if number == ENOTSUPP:
            self._batch_writes = False
        # `count` says how many were done, but is left alone when the command was refused unread.
        return (request.count if request.count < count else 0), number

    def _stopped(self, command: BpfCmd, number: int, done: int, total: int) -> BpfError:
        error = self._failed(command, number)
        error.message += f"; {done} of {total} elements were done"
        return error
