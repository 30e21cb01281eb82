"""Object file → ObjectSpec. Deterministic: no kernel, no environment, the same on every machine."""

import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from chadthrottle.bpf.btf import Btf, BtfType
from chadthrottle.bpf.btf_ext import NO_BTF_EXT, parse_btf_ext
from chadthrottle.bpf.btf_fixup import KCONFIG, KSYMS, fix_btf
from chadthrottle.bpf.constants import BtfKind, ProgType
from chadthrottle.bpf.elf import SHN_UNDEF, ElfImage, read_elf
from chadthrottle.bpf.errors import ObjectFormatError, ObjectNotSupportedError
from chadthrottle.bpf.linker import TEXT, Function, Linker, LinkError, functions_of
from chadthrottle.bpf.mapdefs import MAPS, data_maps, declared_maps
from chadthrottle.bpf.sections import parse_section
from chadthrottle.bpf.spec import Extern, MapSpec, ObjectSpec, ProgramSpec
from chadthrottle.errors import UsageError

__all__ = ["open_object", "parse_object"]

# A value's bound in the kernel (KMALLOC_MAX), as for other data; the loader makes this many bytes.
_MAX_KCONFIG_BYTES = 4 << 20


def open_object(path: Path | str) -> ObjectSpec:
    """Read and parse a file. Raises UsageError (no such file …) and what parse_object raises."""
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path} is no regular file", hint="Name a BPF object file (.bpf.o).")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    try:
        return parse_object(data, path.name.split(".")[0])
    except (ObjectFormatError, ObjectNotSupportedError) as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from error


def parse_object(data: bytes, name: str) -> ObjectSpec:
    """Parse an ELF object.

    `name` is the object's: data maps are called after it. Raises ObjectFormatError for a damaged
    or foreign file, ObjectNotSupportedError for one that wants what this runtime lacks. A fault of
    a single program is no error here but its `problem`.
    """
    image = read_elf(data)
    try:
        return _parse(image, name)
    # Every length is checked where it is read; what slips through in a hostile object (a number
    # where a string offset should be, say) must still be an answer and not a traceback.
    except (struct.error, IndexError, ValueError, KeyError, OverflowError) as error:
        raise ObjectFormatError(f"damaged object: {type(error).__name__}: {error}") from error


def _parse(image: ElfImage, name: str) -> ObjectSpec:
    section = image.section(".BTF")
    btf = Btf.parse(section.data) if section is not None else None
    externs: dict[str, Extern] = {}
    btf_ext = NO_BTF_EXT
    if btf is not None:
        externs = _externs(image, btf)
        btf = fix_btf(btf, image, externs)
        extension = image.section(".BTF.ext")
        if extension is not None:
            btf_ext = parse_btf_ext(extension.data, btf)
    maps = declared_maps(image, btf) | data_maps(image, btf, name)
    places = {}
    if btf is not None and MAPS in btf.datasecs:
        places = {e.offset: btf.name(e.type_id) for e in btf.entries(btf.datasecs[MAPS])}
    functions = functions_of(image)
    linker = Linker(image, functions, places, externs, btf, btf_ext)
    programs: dict[str, ProgramSpec] = {}
    for index, group in functions.items():
        if image.sections[index].name != TEXT:
            for function in group:
                programs[function.name] = _program(function, linker)
    license_section = image.section("license")
    return ObjectSpec(
        name=name,
        license=_text(license_section.data) if license_section is not None else "",
        programs=MappingProxyType(programs),
        maps=MappingProxyType(_checked(maps, programs)),
        externs=MappingProxyType(externs),
        btf=btf,
    )


def _text(data: bytes) -> str:
    return data.split(b"\0")[0].decode("utf-8", "replace")


def _checked(maps: dict[str, MapSpec], programs: dict[str, ProgramSpec]) -> dict[str, MapSpec]:
    for spec in maps.values():
        for slot in spec.slots:
            if slot.is_program and slot.target not in programs:
                raise ObjectFormatError(f"map {spec.name}: its slot names {slot.target!r}, no program")
    return maps


def _program(function: Function, linker: Linker) -> ProgramSpec:
    declared = parse_section(function.section.name)
    problem = None
    if declared is None:
        problem = f"section {function.section.name!r} is no program type this runtime knows"
    elif function.is_local:
        problem = "it is a static function in a program section: make it global, or static in no section"
    if declared is not None and problem is None:
        try:
            code = linker.link(function)
        except LinkError as error:
            problem = str(error)
        else:
            return ProgramSpec(
                name=function.name,
                section=function.section.name,
                type=declared.type,
                expected_attach_type=declared.expected_attach_type,
                attach_to=declared.attach_to,
                flags=declared.flags,
                autoload=declared.autoload,
                instructions=code.instructions,
                functions=code.functions,
                references=code.references,
                core_relocations=code.core_relocations,
                func_info=code.func_info,
                line_info=code.line_info,
            )
    return ProgramSpec(
        name=function.name,
        section=function.section.name,
        type=declared.type if declared is not None else ProgType.BPF_PROG_TYPE_UNSPEC,
        expected_attach_type=declared.expected_attach_type if declared is not None else None,
        attach_to=declared.attach_to if declared is not None else "",
        flags=0,
        autoload=not function.section.name.startswith("?"),
        instructions=b"",
        problem=problem,
    )


def _externs(image: ElfImage, btf: Btf) -> dict[str, Extern]:
    """Undefined symbols that BTF places in `.ksyms` or `.kconfig`."""
    weak = {s.name: s.bind == "STB_WEAK" for s in image.symbols if s.section == SHN_UNDEF and s.name}
    found: dict[str, Extern] = {}
    kconfig: list[tuple[int, int, str, int]] = []
    for section in (KSYMS, KCONFIG):
        datasec = btf.datasecs.get(section)
        for entry in btf.entries(datasec) if datasec is not None else ():
            name = btf.name(entry.type_id)
            if name not in weak:
                raise ObjectFormatError(f"BTF names an extern {name!r} that no symbol declares")
            if section == KSYMS:
                typed = btf.is_complete(btf.type(entry.type_id).value)
                found[name] = Extern(name, section, weak[name], entry.type_id, typed)
            else:
                value_type = btf.type(entry.type_id).value
                size, alignment = btf.size(value_type), _alignment(btf, btf.resolve(value_type))
                kconfig.append((-alignment, size, name, entry.type_id))
    return found | _laid_out(kconfig, weak)


def _laid_out(kconfig: list[tuple[int, int, str, int]], weak: Mapping[str, bool]) -> dict[str, Extern]:
    """Places in the `.kconfig` map: wide alignments first, so that there is little padding."""
    found, end = {}, 0
    for negative_alignment, size, name, type_id in sorted(kconfig):
        offset = -(-end // -negative_alignment) * -negative_alignment
        found[name] = Extern(name, KCONFIG, weak[name], type_id, True, size, offset)
        end = offset + size
    if end > _MAX_KCONFIG_BYTES:
        raise ObjectFormatError(f"the .kconfig variables take {end} bytes")
    return found


def _alignment(btf: Btf, record: BtfType) -> int:
    if record.kind == BtfKind.BTF_KIND_ARRAY:
        record = btf.resolve(btf.word(record, 3))
    if record.kind not in (BtfKind.BTF_KIND_INT, BtfKind.BTF_KIND_ENUM, BtfKind.BTF_KIND_ENUM64):
        raise ObjectFormatError("a .kconfig variable is neither number, bool, enum nor string")
    return max(1, min(8, record.value))
