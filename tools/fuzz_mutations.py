"""Ways to damage a BPF object file, each of which a careless reader would stumble over.

`mutate` picks by weight from a table of functions `(rng, layout, data)`, most of them aimed at one
structure of the file: random bytes alone mostly hit padding and DWARF. The same seed and the same
object give the same mutant.
"""

import struct
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from chadthrottle.bpf.btf import BTF_HEADER, Btf, BtfType

__all__ = ["Layout", "Mutant", "mutate"]

_SECTION_HEADER = 64
_SYMBOL = 24
_RELOCATION = 16
_SHT_SYMTAB, _SHT_REL, _SHT_NOBITS = 2, 9, 8
# Offset and width of the fields of Elf64_Shdr, Elf64_Sym, Elf64_Rel, Elf64_Ehdr (elf.h).
_SHDR_FIELDS = ((0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8))
_SYM_FIELDS = ((0, 4), (4, 1), (5, 1), (6, 2), (8, 8), (16, 8))
_REL_FIELDS = ((0, 8), (8, 4), (12, 4))
_EHDR_FIELDS = (
    *((at, 1) for at in range(4, 9)),
    (16, 2), (18, 2), (20, 4), (32, 8), (40, 8), (48, 4), (52, 2), (54, 2), (56, 2), (58, 2), (60, 2), (62, 2),
)  # fmt: skip


class Section(NamedTuple):
    """Where a section's header and its bytes lie in the file."""

    name: str
    type: int
    header: int
    start: int
    end: int


class Layout(NamedTuple):
    """A sound object, and where in it everything is."""

    data: bytes
    sections: tuple[Section, ...]
    btf: Btf | None

    @classmethod
    def of(cls, data: bytes) -> "Layout":
        """Read the section table of a sound file."""
        table, count, names = struct.unpack_from("<Q", data, 40)[0], *struct.unpack_from("<HH", data, 60)
        headers = [table + index * _SECTION_HEADER for index in range(count)]
        strings = struct.unpack_from("<Q", data, headers[names] + 24)[0]
        sections = []
        for header in headers:
            name, kind, _, _, start, size = struct.unpack_from("<IIQQQQ", data, header)
            text = data[strings + name : data.index(0, strings + name)].decode()
            end = start if kind == _SHT_NOBITS else start + size
            sections.append(Section(text, kind, header, start, end))
        blob = next((data[s.start : s.end] for s in sections if s.name == ".BTF"), None)
        return cls(data, tuple(sections), Btf.parse(blob) if blob is not None else None)

    def named(self, *names: str) -> Section | None:
        """The first section of one of these names."""
        return next((s for s in self.sections if s.name in names), None)


class Mutant(NamedTuple):
    """A damaged object and, in words, what was done to it."""

    data: bytes
    what: str


_Mutation = Callable[[Random, Layout, bytearray], str | None]


def mutate(rng: Random, layout: Layout) -> Mutant:
    """One to four mutations on top of one another, mostly one."""
    data = bytearray(layout.data)
    done: list[str] = []
    wanted = rng.choice((1, 1, 1, 1, 1, 2, 3, 4))
    mutations, weights = zip(*_MUTATIONS, strict=True)
    while len(done) < wanted:
        mutation: _Mutation = rng.choices(mutations, weights)[0]
        said = mutation(rng, layout, data)
        if said is not None:  # None: this object has nothing of the kind
            done.append(f"{mutation.__name__.strip('_')} {said}")
    return Mutant(bytes(data), "; ".join(done))


def _put(data: bytearray, at: int, value: int, width: int) -> None:
    """Overwrite a little-endian number; nothing happens beyond the end (an earlier mutation cut)."""
    if at + width <= len(data):
        data[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")


def _spoil(rng: Random, layout: Layout, data: bytearray, at: int, width: int) -> str:
    """Replace a number by one that readers tend to get wrong."""
    bits = 8 * width
    old = int.from_bytes(data[at : at + width], "little")
    size = len(layout.data)
    value = rng.choice(
        (
            0, 1, 2, (1 << bits) - 1, (1 << bits) - 8, 1 << bits - 1, (1 << bits - 1) - 1,
            old + 1, old - 1, old + 8, old - 8, old * 2, old // 2, old ^ 1 << rng.randrange(bits),
            size, size - 1, size + 1, rng.randrange(size), rng.randrange(64), rng.randrange(1 << bits),
        )
    )  # fmt: skip
    _put(data, at, value, width)
    return f"{width} bytes at {at:#x}: {old:#x} -> {value & (1 << bits) - 1:#x}"


def _truncate_at_boundary(rng: Random, layout: Layout, data: bytearray) -> str:
    section = rng.choice(layout.sections)
    edges = [section.start, section.end, section.header, section.header + _SECTION_HEADER]
    if section.name in (".BTF", ".BTF.ext"):
        edges += [section.start + BTF_HEADER.size, section.start + 32]
    at = max(0, rng.choice(edges) + rng.choice((-8, -1, 0, 0, 1, 8)))
    del data[at:]
    return f"at {at:#x}"


def _truncate_anywhere(rng: Random, layout: Layout, data: bytearray) -> str:
    at = rng.randrange(len(layout.data))
    del data[at:]
    return f"at {at:#x}"


def _flip_bits(rng: Random, _: Layout, data: bytearray) -> str | None:
    if not data:
        return None
    places = [rng.randrange(len(data)) for _ in range(rng.choice((1, 2, 8, 64)))]
    for at in places:
        data[at] ^= 1 << rng.randrange(8)
    return f"in {len(places)} bytes from {min(places):#x} on"


def _replace_number(rng: Random, layout: Layout, data: bytearray) -> str:
    width = rng.choice((1, 2, 4, 8))
    return _spoil(rng, layout, data, rng.randrange(len(layout.data)) // width * width, width)


def _insert_or_delete(rng: Random, layout: Layout, data: bytearray) -> str:
    at, count = rng.randrange(len(layout.data)), rng.choice((1, 4, 8, 24, 64, 500))
    if rng.random() < 0.5:
        del data[at : at + count]
        return f"{count} bytes out at {at:#x}"
    data[at:at] = rng.randbytes(count)
    return f"{count} bytes in at {at:#x}"


def _elf_header(rng: Random, layout: Layout, data: bytearray) -> str:
    return _spoil(rng, layout, data, *rng.choice(_EHDR_FIELDS))


def _section_header(rng: Random, layout: Layout, data: bytearray) -> str:
    section, (at, width) = rng.choice(layout.sections), rng.choice(_SHDR_FIELDS)
    if at == 4:  # a plausible sh_type misleads more than a random one
        _put(data, section.header + at, kind := rng.randrange(20), width)
        return f"{section.name}: type {kind}"
    return f"{section.name}: {_spoil(rng, layout, data, section.header + at, width)}"


def _swap_sections(rng: Random, layout: Layout, data: bytearray) -> str:
    one, two = rng.sample(layout.sections, 2)
    # The whole header, the name, the contents, or type and contents.
    start, end = rng.choice(((0, 64), (0, 4), (24, 40), (4, 40)))
    a, b = slice(one.header + start, one.header + end), slice(two.header + start, two.header + end)
    data[a], data[b] = data[b], data[a]
    return f"{one.name} and {two.name}, header bytes {start} to {end}"


def _entry(
    rng: Random, layout: Layout, data: bytearray, kind: int, entry: int, fields: tuple[tuple[int, int], ...]
) -> str | None:
    tables = [s for s in layout.sections if s.type == kind and s.end > s.start and ".debug" not in s.name]
    if not tables:
        return None
    table = rng.choice(tables)
    number = rng.randrange((table.end - table.start) // entry)
    at, width = rng.choice(fields)
    return f"{table.name}[{number}]: {_spoil(rng, layout, data, table.start + number * entry + at, width)}"


def _symbol(rng: Random, layout: Layout, data: bytearray) -> str | None:
    return _entry(rng, layout, data, _SHT_SYMTAB, _SYMBOL, _SYM_FIELDS)


def _relocation(rng: Random, layout: Layout, data: bytearray) -> str | None:
    return _entry(rng, layout, data, _SHT_REL, _RELOCATION, _REL_FIELDS)


def _word_of(rng: Random, layout: Layout, data: bytearray, section: Section | None, most: int) -> str | None:
    if section is None or section.end - section.start < 8:
        return None
    at = section.start + rng.randrange(min(most, section.end - section.start) // 4) * 4
    return f"{section.name}: {_spoil(rng, layout, data, at, 4)}"


def _btf_word(rng: Random, layout: Layout, data: bytearray) -> str | None:
    # Half of them in the header and the first types, the rest anywhere, the strings included.
    return _word_of(rng, layout, data, layout.named(".BTF"), rng.choice((24, 1 << 30)))


def _btf_ext_word(rng: Random, layout: Layout, data: bytearray) -> str | None:
    return _word_of(rng, layout, data, layout.named(".BTF.ext"), rng.choice((32, 1 << 30)))


def _btf_record(rng: Random, layout: Layout, data: bytearray) -> str | None:
    """A type of another kind or length, or one that refers elsewhere: to itself, to void, to none."""
    section, btf = layout.named(".BTF"), layout.btf
    if section is None or btf is None:
        return None
    record: BtfType = rng.choice(btf.table)
    at = section.start + struct.unpack_from("<II", layout.data, section.start + 4)[0] + record.at
    others = (0, record.id, rng.randrange(len(btf.table)) + 1, len(btf.table) + 1)
    match rng.randrange(5):
        case 0:
            kind = rng.randrange(21)
            _put(data, at + 7, kind | record.kind_flag << 7, 1)
            return f"type {record.id} becomes kind {kind}"
        case 1:
            vlen = rng.choice((0, record.vlen + 1, max(0, record.vlen - 1), 0xFFFF))
            _put(data, at + 4, vlen, 2)
            return f"type {record.id} has {vlen} members"
        case 2:
            _put(data, at + 8, other := rng.choice(others), 4)
            return f"type {record.id} refers to {other}"
        case 3:
            words = max(1, record.vlen) * 3
            place = at + 12 + 4 * rng.randrange(words)
            return f"type {record.id}: {_spoil(rng, layout, data, place, 4)}"
        case _:
            place = at + 12 + 4 * rng.randrange(max(1, record.vlen) * 3)
            _put(data, place, other := rng.choice(others), 4)
            return f"type {record.id}: a word becomes type {other}"


def _strings(rng: Random, layout: Layout, data: bytearray) -> str | None:
    """Lost terminators, bytes that are no UTF-8, names that are empty or run into one another."""
    section = layout.named(rng.choice((".strtab", ".BTF", "license")))
    if section is None or section.end <= section.start or section.end > len(data):
        return None
    start = section.start
    if section.name == ".BTF" and layout.btf is not None:
        start = section.end - len(layout.btf.strings)
    count = rng.choice((1, 1, 4, section.end - start))
    for _ in range(count):
        data[rng.randrange(start, section.end)] = rng.choice((0, 0x2E, 0x2F, 0x41, 0x80, 0xC3, 0xFF))
    return f"{section.name}: {count} bytes"


def _instruction(rng: Random, layout: Layout, data: bytearray) -> str | None:
    code = [s for s in layout.sections if s.type == 1 and _is_code(layout, s)]
    if not code:
        return None
    section = rng.choice(code)
    at = section.start + rng.randrange((section.end - section.start) // 8) * 8
    field, width = rng.choice(((0, 1), (1, 1), (2, 2), (4, 4)))
    return f"{section.name}: {_spoil(rng, layout, data, at + field, width)}"


def _is_code(layout: Layout, section: Section) -> bool:
    executable = 4
    return section.end - section.start >= 8 and bool(layout.data[section.header + 8] & executable)


def _exchange_words(rng: Random, layout: Layout, data: bytearray) -> str:
    """Part of one section's bytes over another's: sound numbers in the wrong place."""
    filled = [s for s in layout.sections if s.end - s.start >= 8 and ".debug" not in s.name]
    one, two = rng.choice(filled), rng.choice(filled)
    count = rng.choice((4, 8, 16, 24, 64))
    source = layout.data[one.start + rng.randrange((one.end - one.start) // 4) * 4 :][:count]
    at = two.start + rng.randrange((two.end - two.start) // 4) * 4
    source = source[: max(0, len(data) - at)]
    data[at : at + len(source)] = source
    return f"{len(source)} bytes of {one.name} over {two.name} at {at:#x}"


_MUTATIONS: tuple[tuple[_Mutation, int], ...] = (
    (_truncate_at_boundary, 3),
    (_truncate_anywhere, 2),
    (_flip_bits, 3),
    (_replace_number, 3),
    (_insert_or_delete, 2),
    (_elf_header, 2),
    (_section_header, 6),
    (_swap_sections, 5),
    (_symbol, 8),
    (_relocation, 6),
    (_btf_word, 6),
    (_btf_record, 16),
    (_btf_ext_word, 10),
    (_strings, 8),
    (_instruction, 10),
    (_exchange_words, 6),
)
