"""The .BTF.ext section: func_info, line_info and CO-RE relocations, per code section.

Format: Documentation/bpf/btf.rst, "4. ELF File Format Interface". Offsets are in bytes within the
code section; the linker rebases them.
"""

import struct
from bisect import bisect_left
from operator import itemgetter
from typing import NamedTuple

from chadthrottle.bpf.btf import Btf
from chadthrottle.bpf.errors import ObjectFormatError

__all__ = ["BtfExt", "InfoTable", "parse_btf_ext"]

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_CORE = struct.Struct("<II")
# Smallest record of each table: struct bpf_func_info, bpf_line_info, bpf_core_relo.
_MIN_RECORD = {"func_info": 8, "line_info": 16, "core_relo": 16}
# MAX_FUNCINFO_REC_SIZE and its likes (kernel/bpf/verifier.c).
_MAX_RECORD = 252
_offset = itemgetter(0)


class InfoTable(NamedTuple):
    """Records of `record_size` bytes, (byte offset in section, record) by offset, by section."""

    record_size: int
    sections: dict[str, tuple[tuple[int, bytes], ...]]

    def within(self, section: str, start: int, end: int) -> tuple[tuple[int, bytes], ...]:
        """The records whose byte offset lies in [start, end)."""
        records = self.sections.get(section, ())
        first = bisect_left(records, start, key=_offset)
        return records[first : bisect_left(records, end, first, key=_offset)]


class BtfExt(NamedTuple):
    """All three tables; one the file lacks has record_size 0."""

    func_info: InfoTable
    line_info: InfoTable
    core_relo: InfoTable


_NONE = InfoTable(0, {})
NO_BTF_EXT = BtfExt(_NONE, _NONE, _NONE)


def parse_btf_ext(data: bytes, btf: Btf) -> BtfExt:
    """Decode a .BTF.ext section. Raises ObjectFormatError."""
    if len(data) < _HEADER.size:
        raise ObjectFormatError(f".BTF.ext of {len(data)} bytes has no header")
    magic, version, _, header_bytes, *places = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != 1:
        raise ObjectFormatError(f".BTF.ext with magic {magic:#x}, version {version}")
    # The CO-RE pair came later; header_bytes says whether it is there.
    if header_bytes >= _HEADER.size + _CORE.size and len(data) >= header_bytes:
        places += _CORE.unpack_from(data, _HEADER.size)
    else:
        places += (0, 0)
    tables = []
    for number, name in enumerate(_MIN_RECORD):
        offset, length = places[2 * number], places[2 * number + 1]
        start = header_bytes + offset
        if start + length > len(data):
            raise ObjectFormatError(f".BTF.ext: {name} reaches past the end of the section")
        tables.append(_table(name, data[start : start + length], btf))
    return BtfExt(*tables)


def _table(name: str, data: bytes, btf: Btf) -> InfoTable:
    if not data:
        return _NONE
    if len(data) < 4:
        raise ObjectFormatError(f".BTF.ext: {name} is cut off")
    record_size = int.from_bytes(data[:4], "little")
    if not _MIN_RECORD[name] <= record_size <= _MAX_RECORD or record_size % 4:
        raise ObjectFormatError(f".BTF.ext: {name} has records of {record_size} bytes")
    sections: dict[str, list[tuple[int, bytes]]] = {}
    at = 4
    while at < len(data):
        if at + 8 > len(data):
            raise ObjectFormatError(f".BTF.ext: {name} is cut off")
        section_name, count = struct.unpack_from("<II", data, at)
        at += 8
        if at + count * record_size > len(data):
            raise ObjectFormatError(f".BTF.ext: {name} is cut off")
        records = sections.setdefault(btf.string(section_name), [])
        for _ in range(count):
            record = data[at : at + record_size]
            records.append((int.from_bytes(record[:4], "little"), record))
            at += record_size
    # Compilers write them in order already; `within` counts on it.
    return InfoTable(record_size, {name: tuple(sorted(found, key=_offset)) for name, found in sections.items()})
