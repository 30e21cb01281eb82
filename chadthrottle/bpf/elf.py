"""An ELF file as plain data: sections, symbols, relocations. The only importer of pyelftools.

pyelftools decodes headers, symbols and relocation records, by its structures alone: its ELFFile
imports a DWARF reader, inflates compressed sections and materialises .bss, and reads names up to the
next NUL wherever that is. Bytes and names are cut from the file here, because the input may be
hostile. Linux calls the machine EM_BPF; a relocatable, 64-bit, little-endian file is the only form
compilers produce for it here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from elftools.construct import ConstructError
from elftools.elf.structs import ELFStructs

from chadthrottle.bpf.errors import ObjectFormatError

__all__ = [
    "SHN_UNDEF",
    "ElfImage",
    "ElfRelocation",
    "ElfSection",
    "ElfSymbol",
    "read_elf",
]

SHN_UNDEF = 0
SHT_PROGBITS = "SHT_PROGBITS"
SHT_NOBITS = "SHT_NOBITS"
SHT_SYMTAB = "SHT_SYMTAB"
SHT_REL = "SHT_REL"
SHF_EXECINSTR = 0x4

# Objects in the field are below 2 MiB and have some thousand symbols. Reading takes up to 2 us a byte
# and 50 us a symbol, so that a wrong or hostile argument costs seconds.
_MAX_FILE_BYTES = 16 << 20
_MAX_ENTRIES = 1 << 16
_FILE_HEADER_BYTES = 64
_SECTION_HEADER_BYTES = 64
_SYMBOL_BYTES = 24
_RELOCATION_BYTES = 16  # Elf64_Rel; BPF compilers emit no Elf64_Rela
# No symbol of a C, C++ or Rust program comes near. Without a bound, a hundred thousand names could
# each be the tail of one string as long as the file.
_MAX_NAME_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ElfSection:
    """One section. `data` is empty for SHT_NOBITS (.bss); `size` is always the declared one."""

    index: int
    name: str
    type: str
    flags: int
    size: int
    data: bytes

    @property
    def executable(self) -> bool:
        return self.type == SHT_PROGBITS and bool(self.flags & SHF_EXECINSTR)


class ElfSymbol(NamedTuple):
    """One symbol. `section` is 0 for an undefined one and above the section count for SHN_ABS …"""

    name: str
    value: int
    size: int
    type: str
    bind: str
    visibility: str
    section: int


class ElfRelocation(NamedTuple):
    """One relocation: `offset` in bytes within the section it patches."""

    offset: int
    symbol: ElfSymbol


class ElfImage(NamedTuple):
    """What a BPF loader reads from an ELF file."""

    sections: tuple[ElfSection, ...]
    symbols: tuple[ElfSymbol, ...]
    relocations: dict[int, tuple[ElfRelocation, ...]]
    """Per patched section, in file order, for code and `.maps`."""

    def section(self, name: str) -> ElfSection | None:
        return next((s for s in self.sections if s.name == name), None)


def read_elf(data: bytes) -> ElfImage:
    """Decode. Raises ObjectFormatError for anything that is not a sound BPF object file."""
    if len(data) > _MAX_FILE_BYTES:
        raise ObjectFormatError(f"the file is {len(data)} bytes, more than any BPF object")
    try:
        return _read(data)
    except ConstructError as error:
        raise ObjectFormatError(f"not a sound ELF file: {error}") from error


def _read(data: bytes) -> ElfImage:
    if data[:4] != b"\x7fELF" or len(data) < _FILE_HEADER_BYTES:
        raise ObjectFormatError("not an ELF file, or cut off within its header")
    if data[4:6] != b"\x02\x01":  # ELFCLASS64, ELFDATA2LSB
        raise ObjectFormatError("an ELF file that is not 64-bit, little-endian")
    structs = ELFStructs(little_endian=True, elfclass=64)
    structs.create_basic_structs()
    header = structs.Elf_Ehdr.parse(data)
    if header["e_machine"] != "EM_BPF":
        raise ObjectFormatError(f"an ELF file for {header['e_machine']}, not EM_BPF")
    if header["e_type"] != "ET_REL":
        raise ObjectFormatError(f"an ELF file of type {header['e_type']}, not ET_REL (an object)")
    structs.create_advanced_structs(header["e_type"], header["e_machine"])
    headers = _section_headers(structs, header, data)
    sections = _sections(headers, header["e_shstrndx"], data)
    table = next((s for s in sections if s.type == SHT_SYMTAB), None)
    symbols = tuple(_symbols(structs, table, headers, sections)) if table is not None else ()
    relocations: dict[int, list[ElfRelocation]] = {}
    for section in sections:
        if section.type == SHT_REL:
            target = headers[section.index]["sh_info"]
            if target >= len(sections):
                raise ObjectFormatError(f"section {section.name} patches section {target} of {len(sections)}")
            if sections[target].executable or sections[target].name == ".maps":
                found = _relocations(structs, section, headers, symbols)
                relocations.setdefault(target, []).extend(found)
    return ElfImage(sections, symbols, {index: tuple(group) for index, group in relocations.items()})


# What pyelftools' structures return is a dict-like Container, which knows no types.
_Header = Any


def _section_headers(structs: ELFStructs, header: _Header, data: bytes) -> list[_Header]:
    start, count, entry = header["e_shoff"], header["e_shnum"], header["e_shentsize"]
    if count and entry != _SECTION_HEADER_BYTES:
        raise ObjectFormatError(f"section headers of {entry} bytes, not {_SECTION_HEADER_BYTES}")
    if start + count * _SECTION_HEADER_BYTES > len(data):
        raise ObjectFormatError(f"{count} section headers reach past the end of the file")
    return [structs.Elf_Shdr.parse(raw) for raw in _entries(data[start:], _SECTION_HEADER_BYTES, count)]


def _sections(headers: list[_Header], names: int, data: bytes) -> tuple[ElfSection, ...]:
    if headers and names >= len(headers):
        raise ObjectFormatError(f"section {names} of {len(headers)} is said to hold the sections' names")
    strings = _content(headers[names], data) if headers else b""
    sections, total = [], 0
    for index, header in enumerate(headers):
        section = ElfSection(
            index=index,
            name=_string(strings, header["sh_name"]),
            type=str(header["sh_type"]),
            flags=header["sh_flags"],
            size=header["sh_size"],
            data=_content(header, data),
        )
        total += len(section.data)
        # Sections share no bytes. Were they let, a small file could stand for any amount of them.
        if total > len(data):
            raise ObjectFormatError(f"section {section.name!r} overlaps another")
        sections.append(section)
    return tuple(sections)


def _content(header: _Header, data: bytes) -> bytes:
    offset, size = header["sh_offset"], header["sh_size"]
    if header["sh_type"] in ("SHT_NULL", SHT_NOBITS):
        return b""
    if offset + size > len(data):
        raise ObjectFormatError(f"a section reaches to byte {offset + size} of a file of {len(data)}")
    return data[offset : offset + size]


def _string(strings: bytes, offset: int) -> str:
    end = strings.find(0, offset, offset + _MAX_NAME_BYTES)
    if offset >= len(strings) or end < 0:
        raise ObjectFormatError(f"no name ends within {_MAX_NAME_BYTES} bytes from {offset} of {len(strings)}")
    return strings[offset:end].decode("utf-8", "replace")


def _entries(data: bytes, size: int, count: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, count * size, size))


def _table(section: ElfSection, header: _Header, entry: int) -> Iterator[bytes]:
    """The entries of a table, whose header must give the size that this kind of entry has."""
    if header["sh_entsize"] != entry:
        raise ObjectFormatError(f"section {section.name} has entries of {header['sh_entsize']} bytes, not {entry}")
    count = len(section.data) // entry
    if count > _MAX_ENTRIES:
        raise ObjectFormatError(f"section {section.name} has {count} entries, more than any BPF object")
    return _entries(section.data, entry, count)


def _symbols(
    structs: ELFStructs, table: ElfSection, headers: list[_Header], sections: tuple[ElfSection, ...]
) -> Iterator[ElfSymbol]:
    header = headers[table.index]
    if header["sh_link"] >= len(sections):
        raise ObjectFormatError(f"section {table.name} has its names in section {header['sh_link']}, which is none")
    strings = sections[header["sh_link"]].data
    for raw in _table(table, header, _SYMBOL_BYTES):
        entry = structs.Elf_Sym.parse(raw)
        section = entry["st_shndx"]
        if section == "SHN_UNDEF":
            number = SHN_UNDEF
        elif isinstance(section, int):
            number = section
        else:  # SHN_ABS, SHN_COMMON: no section of this file
            number = 0x10000
        yield ElfSymbol(
            name=_string(strings, entry["st_name"]),
            value=entry["st_value"],
            size=entry["st_size"],
            type=str(entry["st_info"]["type"]),
            bind=str(entry["st_info"]["bind"]),
            visibility=str(entry["st_other"]["visibility"]),
            section=number,
        )


def _relocations(
    structs: ELFStructs, section: ElfSection, headers: list[_Header], symbols: tuple[ElfSymbol, ...]
) -> Iterator[ElfRelocation]:
    for raw in _table(section, headers[section.index], _RELOCATION_BYTES):
        relocation = structs.Elf_Rel.parse(raw)
        number = relocation["r_info_sym"]
        if number >= len(symbols):
            raise ObjectFormatError(f"section {section.name} names symbol {number} of {len(symbols)}")
        yield ElfRelocation(relocation["r_offset"], symbols[number])
