"""Linking: one entry function and everything it calls become one program.

A called function is appended behind its first caller's code, then its own calls are followed, depth
first; that order decides the program's tag, and it is the one libbpf produces.

    entry ── calls a ── calls b          instructions:  entry | a | b | c
       └──── calls c                     each function once per program
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from chadthrottle.bpf.btf import Btf
from chadthrottle.bpf.btf_ext import BtfExt, InfoTable
from chadthrottle.bpf.constants import (
    BPF_CALL,
    BPF_COMPLEXITY_LIMIT_INSNS,
    BPF_INSN_SIZE,
    BPF_LD_IMM64,
    BPF_PSEUDO_CALL,
    BPF_PSEUDO_FUNC,
)
from chadthrottle.bpf.elf import SHN_UNDEF, ElfImage, ElfRelocation, ElfSection, ElfSymbol
from chadthrottle.bpf.errors import ObjectFormatError
from chadthrottle.bpf.mapdefs import MAPS, is_data_section
from chadthrottle.bpf.spec import (
    CoreRelocation,
    Extern,
    FunctionSpec,
    RecordTable,
    Reference,
    ReferenceKind,
)

__all__ = ["TEXT", "Function", "LinkError", "LinkedCode", "Linker", "functions_of"]

TEXT = ".text"
"""Where functions without a SEC() of their own are."""

# Every program takes a copy of what it calls, so a small file may stand for any amount of code.
_MOST_LINKED = 2 * BPF_COMPLEXITY_LIMIT_INSNS
_INSN = struct.Struct("<BBhi")
_CORE_RELO = struct.Struct("<IIII")


class LinkError(Exception):
    """This program cannot be linked; the rest of the object can. The message is for the user."""


class Function(NamedTuple):
    """A function as compiled; start and end in bytes of its section."""

    name: str
    section: ElfSection
    start: int
    end: int
    is_local: bool


class LinkedCode(NamedTuple):
    """The parts of a ProgramSpec that linking decides."""

    instructions: bytes
    functions: tuple[FunctionSpec, ...]
    references: tuple[Reference, ...]
    core_relocations: tuple[CoreRelocation, ...]
    func_info: RecordTable
    line_info: RecordTable


def functions_of(image: ElfImage) -> dict[int, tuple[Function, ...]]:
    """The functions of every code section, in address order. Raises ObjectFormatError."""
    found: dict[int, list[Function]] = {}
    for symbol in image.symbols:
        if symbol.type != "STT_FUNC" or not 0 < symbol.section < len(image.sections):
            continue
        section = image.sections[symbol.section]
        if not section.executable:
            continue
        end = symbol.value + symbol.size
        if symbol.value % BPF_INSN_SIZE or symbol.size % BPF_INSN_SIZE or not symbol.size:
            raise ObjectFormatError(f"function {symbol.name} is no whole number of instructions")
        if end > section.size:
            raise ObjectFormatError(f"function {symbol.name} reaches past the end of its section")
        if symbol.size // BPF_INSN_SIZE > BPF_COMPLEXITY_LIMIT_INSNS:
            raise ObjectFormatError(f"function {symbol.name} has more instructions than any kernel takes")
        is_local = symbol.bind == "STB_LOCAL"
        found.setdefault(section.index, []).append(Function(symbol.name, section, symbol.value, end, is_local))
    for functions in found.values():
        functions.sort(key=lambda f: f.start)
        for one, two in pairwise(functions):
            if two.start < one.end:
                raise ObjectFormatError(f"functions {one.name} and {two.name} overlap")
    return {index: tuple(functions) for index, functions in found.items()}


class Linker:
    """Links the programs of one object; holds what is common to them."""

    def __init__(
        self,
        image: ElfImage,
        functions: Mapping[int, tuple[Function, ...]],
        map_places: Mapping[int, str],
        externs: Mapping[str, Extern],
        btf: Btf | None,
        btf_ext: BtfExt,
    ) -> None:
        """`map_places` is byte offset in `.maps` → map name."""
        self._image = image
        self._functions = functions
        self._starts = {index: [f.start for f in group] for index, group in functions.items()}
        self._map_places = map_places
        self._externs = externs
        self._btf = btf
        self._btf_ext = btf_ext
        self._linked = 0
        self._relocations = {
            index: _by_offset(image.sections[index], group)
            for index, group in image.relocations.items()
            if image.sections[index].executable
        }

    def link(self, entry: Function) -> LinkedCode:
        """Link one program. Raises LinkError, or ObjectFormatError for a damaged object."""
        code = bytearray()
        placed: dict[Function, int] = {}
        references: list[Reference] = []
        # A stack instead of recursion: a hostile object may nest calls as deep as it likes.
        pending: list[Iterator[tuple[int, Function]]] = []

        def append(function: Function) -> None:
            base = len(code) // BPF_INSN_SIZE
            placed[function] = base
            code.extend(function.section.data[function.start : function.end])
            self._linked += (function.end - function.start) // BPF_INSN_SIZE
            if self._linked > _MOST_LINKED:
                raise ObjectFormatError(f"its programs have more than {_MOST_LINKED} instructions together")
            if len(code) // BPF_INSN_SIZE > BPF_COMPLEXITY_LIMIT_INSNS:
                raise LinkError("it has more instructions than any kernel takes (1000000)")
            pending.append(self._patch(code, function, base, references))

        append(entry)
        while pending:
            call = next(pending[-1], None)
            if call is None:
                pending.pop()
                continue
            at, target = call
            if target not in placed:
                append(target)
            opcode, registers, offset, _ = _INSN.unpack_from(code, at * BPF_INSN_SIZE)
            _INSN.pack_into(code, at * BPF_INSN_SIZE, opcode, registers, offset, placed[target] - at - 1)
        references.sort(key=lambda r: r.instruction)
        return LinkedCode(
            instructions=bytes(code),
            functions=tuple(
                FunctionSpec(f.name, base, (f.end - f.start) // BPF_INSN_SIZE) for f, base in placed.items()
            ),
            references=tuple(references),
            core_relocations=tuple(self._core_relocations(placed)),
            func_info=_rebase(self._btf_ext.func_info, placed),
            line_info=_rebase(self._btf_ext.line_info, placed),
        )

    def _patch(
        self, code: bytearray, function: Function, base: int, references: list[Reference]
    ) -> Iterator[tuple[int, Function]]:
        """Resolve the function's own references; yield (instruction, target) for each call in it."""
        relocations = self._relocations.get(function.section.index, {})
        index, end = base, base + (function.end - function.start) // BPF_INSN_SIZE
        while index < end:
            opcode, registers, offset, immediate = _INSN.unpack_from(code, index * BPF_INSN_SIZE)
            source = registers >> 4
            in_section = function.start + (index - base) * BPF_INSN_SIZE
            relocation = relocations.get(in_section)
            if opcode == BPF_CALL and (relocation is not None or source == BPF_PSEUDO_CALL):
                symbol = relocation.symbol if relocation is not None else None
                if symbol is not None and symbol.section == SHN_UNDEF:
                    references.append(self._extern_call(index, symbol))
                elif source != BPF_PSEUDO_CALL:
                    raise LinkError(f"instruction {index} is a call whose target is no function")
                else:
                    yield index, self._called(function, in_section, symbol, immediate)
            elif opcode == BPF_LD_IMM64:
                if index + 1 >= end:
                    raise ObjectFormatError(f"function {function.name} ends within an instruction")
                if relocation is not None:
                    target = self._load(index, relocation.symbol, immediate, references)
                    if target is not None:
                        registers = registers & 0x0F | BPF_PSEUDO_FUNC << 4
                        _INSN.pack_into(code, index * BPF_INSN_SIZE, opcode, registers, offset, 0)
                        yield index, target
                index += 1
            elif relocation is not None:
                raise LinkError(
                    f"instruction {index} of {function.name} (opcode {opcode:#04x}) refers to "
                    f"{relocation.symbol.name!r}, which only a call or a 64-bit load can"
                )
            index += 1

    def _called(self, function: Function, in_section: int, symbol: ElfSymbol | None, immediate: int) -> Function:
        """The function a call goes to. The immediate counts from the next instruction.

        Only functions in `.text` are appended, as with libbpf, so that an object means the same to
        both; a call without a relocation goes to a static function of the caller's own section.
        """
        relative = (immediate + 1) * BPF_INSN_SIZE
        if symbol is None:
            return self._function_at(function.section.index, in_section + relative)
        called = self._function_at(symbol.section, symbol.value + relative)
        if called.section.name != TEXT:
            raise LinkError(
                f"it calls {called.name}, which is a program itself (section {called.section.name}): "
                "move what they share into a function without SEC()"
            )
        return called

    def _function_at(self, section: int, start: int) -> Function:
        starts = self._starts.get(section, [])
        position = bisect_right(starts, start) - 1
        if position < 0 or starts[position] != start:
            raise LinkError(f"it calls byte {start} of section {section}, where no function begins")
        return self._functions[section][position]

    def _load(self, index: int, symbol: ElfSymbol, immediate: int, references: list[Reference]) -> Function | None:
        """A 64-bit load: of a map, of data, of an extern, or (returned) of a function's address."""
        if symbol.section == SHN_UNDEF:
            references.append(self._extern_load(index, symbol))
            return None
        if symbol.section >= len(self._image.sections):
            raise LinkError(f"it refers to {symbol.name!r}, which lies in no section")
        section = self._image.sections[symbol.section]
        offset = symbol.value + immediate
        if section.executable:
            return self._function_at(section.index, offset)
        if section.name == MAPS:
            name = self._map_places.get(offset)
            if name is None:
                raise LinkError(f"it refers to byte {offset} of .maps, where no map begins")
            references.append(Reference(index, ReferenceKind.MAP_FD, name))
        elif is_data_section(section.name):
            if not 0 <= offset < max(section.size, 1):
                raise LinkError(f"it refers to byte {offset} of {section.name}, beyond its end")
            references.append(Reference(index, ReferenceKind.MAP_VALUE, section.name, offset))
        else:
            raise LinkError(f"it refers to {symbol.name!r} in section {section.name}, which is no data")
        return None

    def _extern(self, symbol: ElfSymbol) -> Extern:
        extern = self._externs.get(symbol.name)
        if extern is None:
            raise LinkError(f"it uses {symbol.name!r}, which nothing defines")
        return extern

    def _extern_call(self, index: int, symbol: ElfSymbol) -> Reference:
        return Reference(index, ReferenceKind.EXTERN_CALL, self._extern(symbol).name)

    def _extern_load(self, index: int, symbol: ElfSymbol) -> Reference:
        extern = self._extern(symbol)
        if extern.section == ".kconfig":
            return Reference(index, ReferenceKind.EXTERN_VALUE, extern.name, extern.offset)
        return Reference(index, ReferenceKind.EXTERN_ADDRESS, extern.name)

    def _core_relocations(self, placed: Mapping[Function, int]) -> Iterator[CoreRelocation]:
        for function, base in placed.items():
            for at, record in self._btf_ext.core_relo.within(function.section.name, function.start, function.end):
                if at % BPF_INSN_SIZE or self._btf is None:
                    raise ObjectFormatError(f"function {function.name} has a CO-RE relocation amiss")
                _, type_id, access, kind = _CORE_RELO.unpack_from(record)
                instruction = base + (at - function.start) // BPF_INSN_SIZE
                yield CoreRelocation(instruction, kind, type_id, self._btf.string(access), record)


def _by_offset(section: ElfSection, group: tuple[ElfRelocation, ...]) -> dict[int, ElfRelocation]:
    found = {}
    for relocation in group:
        if relocation.offset % BPF_INSN_SIZE or relocation.offset >= section.size:
            raise ObjectFormatError(f"a relocation of section {section.name} lies at byte {relocation.offset}")
        found[relocation.offset] = relocation
    return found


def _rebase(table: InfoTable, placed: Mapping[Function, int]) -> RecordTable:
    """The records of the placed functions; their first word becomes the instruction's number."""
    data = bytearray()
    for function, base in placed.items():
        records = table.within(function.section.name, function.start, function.end)
        # The kernel takes at most one to an instruction.
        if len(records) > (function.end - function.start) // BPF_INSN_SIZE:
            raise ObjectFormatError(f"function {function.name} has more debug information than instructions")
        for at, record in records:
            if at % BPF_INSN_SIZE:
                raise ObjectFormatError(f"function {function.name} has debug information amiss")
            instruction = base + (at - function.start) // BPF_INSN_SIZE
            data += instruction.to_bytes(4, "little") + record[4:]
    return RecordTable(table.record_size, bytes(data)) if data else RecordTable()
