"""An ELF file as plain data: sections, symbols, relocations. The only importer of pyelftools.

pyelftools decodes headers, symbols and relocation records; section bytes are cut from the file
here, because its own reader would inflate compressed sections and materialise .bss, and the input
may be hostile. Linux calls the machine EM_BPF; a relocatable, 64-bit, little-endian file is the
only form compilers produce for it here.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section, SymbolTableSection

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
SHF_EXECINSTR = 0x4

# Objects in the field are below 2 MiB; the bound keeps a wrong argument from filling memory.
_MAX_FILE_BYTES = 64 << 20
_SECTION_HEADER_BYTES = 64
_SYMBOL_BYTES = 24
_RELOCATION_BYTES = 16  # Elf64_Rel; BPF compilers emit no Elf64_Rela


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


@dataclass(frozen=True, slots=True)
class ElfSymbol:
    """One symbol. `section` is 0 for an undefined one and above the section count for SHN_ABS …"""

    name: str
    value: int
    size: int
    type: str
    bind: str
    visibility: str
    section: int


@dataclass(frozen=True, slots=True)
class ElfRelocation:
    """One relocation: `offset` in bytes within the section it patches."""

    offset: int
    symbol: ElfSymbol


@dataclass(frozen=True, slots=True)
class ElfImage:
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
    except ObjectFormatError:
        raise
    # pyelftools answers damage with its own errors, but also with whatever construct, struct or an
    # index happened to raise; to the user they all mean the same.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ObjectFormatError(f"not a sound ELF file: {reason}") from error


def _read(data: bytes) -> ElfImage:
    elf = ELFFile(io.BytesIO(data))
    header = elf.header
    if elf.elfclass != 64 or not elf.little_endian or header["e_machine"] != "EM_BPF":
        raise ObjectFormatError(
            f"an ELF file for {header['e_machine']}, {elf.elfclass}-bit, "
            f"{'little' if elf.little_endian else 'big'}-endian; expected EM_BPF, 64-bit, little-endian"
        )
    if header["e_type"] != "ET_REL":
        raise ObjectFormatError(f"an ELF file of type {header['e_type']}, not ET_REL (an object)")
    count = elf.num_sections()
    if header["e_shentsize"] != _SECTION_HEADER_BYTES:
        raise ObjectFormatError(f"section headers of {header['e_shentsize']} bytes, not 64")
    if header["e_shoff"] + count * _SECTION_HEADER_BYTES > len(data):
        raise ObjectFormatError(f"{count} section headers reach past the end of the file")

    raw = [elf.get_section(index) for index in range(count)]
    sections = tuple(_section(index, section, data) for index, section in enumerate(raw))
    table = next((s for s in raw if isinstance(s, SymbolTableSection)), None)
    symbols = () if table is None else tuple(_symbols(table, len(data)))
    relocations: dict[int, tuple[ElfRelocation, ...]] = {}
    for section in raw:
        if isinstance(section, RelocationSection) and not section.is_RELA():
            target = section.header["sh_info"]
            if target >= count:
                raise ObjectFormatError(f"section {section.name} patches section {target} of {count}")
            if sections[target].executable or sections[target].name == ".maps":
                found = tuple(_relocations(section, symbols, len(data)))
                relocations[target] = relocations.get(target, ()) + found
    return ElfImage(sections, symbols, relocations)


def _section(index: int, section: Section, data: bytes) -> ElfSection:
    header = section.header
    offset, size, kind = header["sh_offset"], header["sh_size"], header["sh_type"]
    if kind in ("SHT_NULL", SHT_NOBITS):
        content = b""
    elif offset + size > len(data):
        raise ObjectFormatError(
            f"section {section.name!r} reaches to byte {offset + size} of a file of {len(data)}"
        )
    else:
        content = data[offset : offset + size]
    return ElfSection(index, section.name, str(kind), header["sh_flags"], size, content)


def _check_table(section: Section, entry_bytes: int, file_bytes: int) -> None:
    header = section.header
    if header["sh_entsize"] != entry_bytes:
        raise ObjectFormatError(
            f"section {section.name} has entries of {header['sh_entsize']} bytes, not {entry_bytes}"
        )
    if header["sh_offset"] + header["sh_size"] > file_bytes:
        raise ObjectFormatError(f"section {section.name} reaches past the end of the file")


def _symbols(table: SymbolTableSection, file_bytes: int) -> Iterator[ElfSymbol]:
    _check_table(table, _SYMBOL_BYTES, file_bytes)
    for symbol in table.iter_symbols():
        entry = symbol.entry
        section = entry["st_shndx"]
        if section == "SHN_UNDEF":
            number = SHN_UNDEF
        elif isinstance(section, int):
            number = section
        else:  # SHN_ABS, SHN_COMMON: no section of this file
            number = 0x10000
        yield ElfSymbol(
            name=symbol.name,
            value=entry["st_value"],
            size=entry["st_size"],
            type=str(entry["st_info"]["type"]),
            bind=str(entry["st_info"]["bind"]),
            visibility=str(entry["st_other"]["visibility"]),
            section=number,
        )


def _relocations(
    section: RelocationSection, symbols: tuple[ElfSymbol, ...], file_bytes: int
) -> Iterator[ElfRelocation]:
    _check_table(section, _RELOCATION_BYTES, file_bytes)
    for relocation in section.iter_relocations():
        number = relocation["r_info_sym"]
        if number >= len(symbols):
            raise ObjectFormatError(
                f"section {section.name} names symbol {number} of {len(symbols)}"
            )
        yield ElfRelocation(relocation["r_offset"], symbols[number])
