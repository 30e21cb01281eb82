"""BTF of an object file: reading the type stream, and the few questions a loader asks of it.

Format: Documentation/bpf/btf.rst and include/uapi/linux/btf.h. Written by hand because no
well-kept pure-Python library reads BTF. The kernel's own BTF (126 585 types here) is never decoded
this way: see kernel_btf.py.
"""

import struct
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from chadthrottle.bpf.constants import BtfKind
from chadthrottle.bpf.errors import ObjectFormatError

__all__ = ["BTF_HEADER", "Btf", "BtfEntry", "BtfMember", "BtfType", "trailer_bytes"]

_MAGIC = 0xEB9F
BTF_HEADER = struct.Struct("<HBBIIIII")
"""struct btf_header: magic, version, flags, hdr_len, type_off, type_len, str_off, str_len."""
_TYPE = struct.Struct("<III")  # struct btf_type; btf_member and btf_var_secinfo are as long

# Bytes behind struct btf_type: fixed, and per vlen entry.
_TRAILER: dict[int, tuple[int, int]] = {
    BtfKind.BTF_KIND_INT: (4, 0),
    BtfKind.BTF_KIND_PTR: (0, 0),
    BtfKind.BTF_KIND_ARRAY: (12, 0),
    BtfKind.BTF_KIND_STRUCT: (0, 12),
    BtfKind.BTF_KIND_UNION: (0, 12),
    BtfKind.BTF_KIND_ENUM: (0, 8),
    BtfKind.BTF_KIND_FWD: (0, 0),
    BtfKind.BTF_KIND_TYPEDEF: (0, 0),
    BtfKind.BTF_KIND_VOLATILE: (0, 0),
    BtfKind.BTF_KIND_CONST: (0, 0),
    BtfKind.BTF_KIND_RESTRICT: (0, 0),
    BtfKind.BTF_KIND_FUNC: (0, 0),
    BtfKind.BTF_KIND_FUNC_PROTO: (0, 8),
    BtfKind.BTF_KIND_VAR: (4, 0),
    BtfKind.BTF_KIND_DATASEC: (0, 12),
    BtfKind.BTF_KIND_FLOAT: (0, 0),
    BtfKind.BTF_KIND_DECL_TAG: (4, 0),
    BtfKind.BTF_KIND_TYPE_TAG: (0, 0),
    BtfKind.BTF_KIND_ENUM64: (0, 12),
}
_TRANSPARENT = frozenset(
    {
        BtfKind.BTF_KIND_TYPEDEF,
        BtfKind.BTF_KIND_VOLATILE,
        BtfKind.BTF_KIND_CONST,
        BtfKind.BTF_KIND_RESTRICT,
        BtfKind.BTF_KIND_TYPE_TAG,
    }
)
# The kernel's own bound on chains of types (kernel/bpf/btf.c: MAX_RESOLVE_DEPTH).
_MAX_DEPTH = 32
# kernel/bpf/btf.c: BTF_MAX_TYPE.
_MAX_TYPES = 0x100000
# PATH_MAX, for file names; identifiers are much shorter. Without a bound, a hundred thousand names
# could each be the tail of one string as long as the file.
_MAX_STRING_BYTES = 4096


def trailer_bytes(kind: int, vlen: int) -> int | None:
    """Bytes behind a struct btf_type of this kind; None for a kind this file does not know."""
    entry = _TRAILER.get(kind)
    return None if entry is None else entry[0] + entry[1] * vlen


class BtfType(NamedTuple):
    """One record. `value` is the union of `size` and `type`; `at` its byte in the type stream."""

    id: int
    kind: int
    name_offset: int
    vlen: int
    kind_flag: bool
    value: int
    at: int


class BtfMember(NamedTuple):
    """A member of a struct or union."""

    name: str
    type_id: int
    bit_offset: int
    """As encoded: with the record's kind_flag, the top byte is a bitfield's width."""


class BtfEntry(NamedTuple):
    """A variable in a DATASEC; offset and size in bytes."""

    type_id: int
    offset: int
    size: int


class Btf:
    """A decoded type stream. `strings` and `types` are the two sections' bytes."""

    def __init__(self, types: bytes, strings: bytes) -> None:
        self.types = types
        self.strings = strings
        self.table = tuple(_walk(types))

    @classmethod
    def parse(cls, data: bytes) -> "Btf":
        """Decode a .BTF section. Raises ObjectFormatError."""
        if len(data) < BTF_HEADER.size:
            raise ObjectFormatError(f"BTF of {len(data)} bytes has no header")
        magic, version, _, hdr_len, type_off, type_len, str_off, str_len = BTF_HEADER.unpack_from(data)
        if magic != _MAGIC or version != 1:
            raise ObjectFormatError(f"BTF with magic {magic:#x}, version {version}")
        type_start, string_start = hdr_len + type_off, hdr_len + str_off
        if type_start + type_len > len(data) or string_start + str_len > len(data):
            raise ObjectFormatError("BTF reaches past the end of its section")
        strings = data[string_start : string_start + str_len]
        if not strings or strings[0] or strings[-1]:
            raise ObjectFormatError("BTF strings do not begin and end with NUL")
        return cls(data[type_start : type_start + type_len], strings)

    def serialize(self) -> bytes:
        """The whole blob, header included, as BPF_BTF_LOAD takes it."""
        size = BTF_HEADER.size
        header = BTF_HEADER.pack(_MAGIC, 1, 0, size, 0, len(self.types), len(self.types), len(self.strings))
        return header + self.types + self.strings

    def type(self, type_id: int) -> BtfType:
        """The record with this id (1-based). Raises ObjectFormatError for void or none such."""
        if not 0 < type_id <= len(self.table):
            raise ObjectFormatError(f"BTF has no type {type_id}")
        return self.table[type_id - 1]

    def string(self, offset: int) -> str:
        """The NUL-terminated string at `offset`. Raises ObjectFormatError."""
        end = self.strings.find(0, offset, offset + _MAX_STRING_BYTES)
        if offset >= len(self.strings) or end < 0:
            raise ObjectFormatError(f"no BTF string ends within 4096 bytes from {offset} of {len(self.strings)}")
        return self.strings[offset:end].decode("utf-8", "replace")

    def name(self, type_id: int) -> str:
        return self.string(self.type(type_id).name_offset)

    def members(self, record: BtfType) -> Iterator[BtfMember]:
        """The members of a struct or union."""
        for words in self._words(record):
            yield BtfMember(self.string(words[0]), words[1], words[2])

    def entries(self, record: BtfType) -> Iterator[BtfEntry]:
        """The variables (and extern functions) of a DATASEC."""
        for words in self._words(record):
            yield BtfEntry(*words)

    def _words(self, record: BtfType) -> Iterator[tuple[int, int, int]]:
        start = record.at + _TYPE.size
        yield from _TYPE.iter_unpack(self.types[start : start + _TYPE.size * record.vlen])

    def member(self, record: BtfType, index: int) -> BtfMember:
        """One member of a struct or union. Raises IndexError."""
        name, type_id, bit_offset = (self._entry_word(record, index, 3, n) for n in range(3))
        return BtfMember(self.string(name), type_id, bit_offset)

    def enumerator(self, record: BtfType, index: int) -> str:
        """The name of one of an ENUM's or ENUM64's values. Raises IndexError."""
        words = 2 if record.kind == BtfKind.BTF_KIND_ENUM else 3
        return self.string(self._entry_word(record, index, words, 0))

    def _entry_word(self, record: BtfType, index: int, words: int, number: int) -> int:
        if not 0 <= index < record.vlen:
            raise IndexError(index)
        return self.word(record, 3 + index * words + number)

    def word(self, record: BtfType, index: int) -> int:
        """The `index`-th 32-bit word of the record, counted from its start."""
        return int.from_bytes(self.types[record.at + 4 * index : record.at + 4 * index + 4], "little")

    def resolve(self, type_id: int) -> BtfType:
        """Behind typedefs and qualifiers. Raises ObjectFormatError on void and on loops."""
        for _ in range(_MAX_DEPTH):
            record = self.type(type_id)
            if record.kind not in _TRANSPARENT:
                return record
            type_id = record.value
        raise ObjectFormatError(f"BTF type {type_id} is nested deeper than {_MAX_DEPTH}")

    def size(self, type_id: int) -> int:
        """sizeof, in bytes. Raises ObjectFormatError for what has no size."""
        count = 1
        for _ in range(_MAX_DEPTH):
            record = self.resolve(type_id)
            if record.kind == BtfKind.BTF_KIND_PTR:
                return count * 8
            if record.kind == BtfKind.BTF_KIND_ARRAY:
                count *= self.word(record, 5)
                type_id = self.word(record, 3)
                continue
            if record.kind == BtfKind.BTF_KIND_VAR:
                type_id = record.value
                continue
            if record.kind in _SIZED:
                return count * record.value
            break
        raise ObjectFormatError(f"BTF type {type_id} has no size")

    def is_complete(self, type_id: int) -> bool:
        """False for void behind any qualifiers."""
        for _ in range(_MAX_DEPTH):
            if type_id == 0:
                return False
            record = self.type(type_id)
            if record.kind not in _TRANSPARENT:
                return True
            type_id = record.value
        raise ObjectFormatError(f"BTF type {type_id} is nested deeper than {_MAX_DEPTH}")

    def is_integer(self, type_id: int) -> bool:
        return self.resolve(type_id).kind in _INTEGERS

    def is_signed(self, type_id: int) -> bool:
        record = self.resolve(type_id)
        if record.kind == BtfKind.BTF_KIND_INT:
            return bool(self.word(record, 3) >> 24 & 1)  # BTF_INT_SIGNED
        return record.kind_flag  # an enum's kind_flag says that it is signed

    @cached_property
    def datasecs(self) -> dict[str, BtfType]:
        """DATASEC records by section name."""
        return {self.string(t.name_offset): t for t in self.table if t.kind == BtfKind.BTF_KIND_DATASEC}

    @cached_property
    def functions(self) -> dict[str, BtfType]:
        """FUNC records by name."""
        return {self.string(t.name_offset): t for t in self.table if t.kind == BtfKind.BTF_KIND_FUNC}


_SIZED = frozenset(
    {
        BtfKind.BTF_KIND_INT,
        BtfKind.BTF_KIND_STRUCT,
        BtfKind.BTF_KIND_UNION,
        BtfKind.BTF_KIND_ENUM,
        BtfKind.BTF_KIND_ENUM64,
        BtfKind.BTF_KIND_FLOAT,
        BtfKind.BTF_KIND_DATASEC,
    }
)
_INTEGERS = frozenset({BtfKind.BTF_KIND_INT, BtfKind.BTF_KIND_ENUM, BtfKind.BTF_KIND_ENUM64})


def _walk(types: bytes) -> Iterator[BtfType]:
    at, type_id, end = 0, 1, len(types)
    while at < end:
        if at + _TYPE.size > end or type_id > _MAX_TYPES:
            raise ObjectFormatError(f"BTF type {type_id} is cut off")
        name_offset, info, value = _TYPE.unpack_from(types, at)
        kind, vlen = info >> 24 & 0x1F, info & 0xFFFF
        trailer = trailer_bytes(kind, vlen)
        if trailer is None:
            raise ObjectFormatError(f"BTF type {type_id} is of unknown kind {kind}")
        if at + _TYPE.size + trailer > end:
            raise ObjectFormatError(f"BTF type {type_id} is cut off")
        yield BtfType(type_id, kind, name_offset, vlen, bool(info >> 31), value, at)
        at += _TYPE.size + trailer
        type_id += 1
