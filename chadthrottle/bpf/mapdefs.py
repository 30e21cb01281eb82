"""Maps of an object: those declared in `.maps`, and the data sections as maps of one entry.

A declaration is a variable of an anonymous struct whose members' *types* carry the values:
`int (*max_entries)[64]` says 64, `u32 *key` says the key's type (the convention of libbpf's
`__uint` and `__type`).
"""

from bisect import bisect_right
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from chadthrottle.bpf.btf import Btf, BtfMember, BtfType
from chadthrottle.bpf.constants import BtfKind, MapFlag, MapType
from chadthrottle.bpf.elf import ElfImage, ElfRelocation
from chadthrottle.bpf.errors import ObjectFormatError, ObjectNotSupportedError
from chadthrottle.bpf.spec import MapSpec, Slot, Variable

__all__ = ["MAPS", "data_maps", "declared_maps", "is_data_section"]

MAPS = ".maps"
_PIN_BY_NAME = 1  # libbpf's enum libbpf_pin_type
_OF_MAPS = (MapType.BPF_MAP_TYPE_ARRAY_OF_MAPS, MapType.BPF_MAP_TYPE_HASH_OF_MAPS)
# .bss has no bytes in the file; a damaged header could claim any size. KMALLOC_MAX is 4 MiB, the
# kernel's own bound for a value (kernel/bpf/arraymap.c).
_MAX_DATA_BYTES = 4 << 20
# And for all of them together: each is held in memory as the map's contents.
_MAX_ALL_DATA_BYTES = 64 << 20
# There are 13 attributes, and each is given once.
_MAX_ATTRIBUTES = 32


class _Declaration(NamedTuple):
    """A map and the bytes of `.maps` it takes; `values_at` is where its initial slots begin."""

    spec: MapSpec
    start: int
    end: int
    values_at: int | None


def is_data_section(name: str) -> bool:
    """Whether global variables live in a section of this name."""
    return any(name == base or name.startswith(base + ".") for base in (".rodata", ".data", ".bss"))


def declared_maps(image: ElfImage, btf: Btf | None) -> dict[str, MapSpec]:
    """Every map in `.maps`, by name. Raises ObjectFormatError naming the map and the member."""
    if image.section("maps") is not None:
        raise ObjectNotSupportedError(
            'the object declares maps in the legacy section "maps"',
            hint='Declare them in SEC(".maps") with __uint and __type (libbpf dropped the old form in 1.0).',
        )
    section = image.section(MAPS)
    if section is None:
        return {}
    if btf is None or MAPS not in btf.datasecs:
        raise ObjectFormatError("the object has maps but no BTF to describe them", hint="Compile it with clang -g.")
    declarations = []
    seen: set[str] = set()
    shared = {s.name for s in image.symbols if s.section == section.index and s.bind != "STB_LOCAL"}
    for entry in btf.entries(btf.datasecs[MAPS]):
        variable = btf.type(entry.type_id)
        name = btf.string(variable.name_offset)
        if name in seen:
            raise ObjectFormatError(f"map {name} is declared twice")
        seen.add(name)
        if name not in shared:
            raise ObjectNotSupportedError(f"map {name} is static: declare it without static")
        definition = btf.resolve(variable.value)
        if definition.kind != BtfKind.BTF_KIND_STRUCT or definition.vlen > _MAX_ATTRIBUTES:
            raise ObjectFormatError(f"map {name}: its definition is no struct of a map's attributes")
        values_at = next(
            (entry.offset + m.bit_offset // 8 for m in btf.members(definition) if m.name == "values"),
            None,
        )
        spec = _definition(btf, name, definition, outer=True)
        declarations.append(_Declaration(spec, entry.offset, entry.offset + entry.size, values_at))
    relocations = _by_map(declarations, image.relocations.get(section.index, ()))
    names = {d.spec.name for d in declarations}
    return {d.spec.name: replace(d.spec, slots=_slots(d, relocations[d.start], names)) for d in declarations}


def _by_map(declarations: list[_Declaration], relocations: tuple[ElfRelocation, ...]) -> dict[int, list[ElfRelocation]]:
    """The relocations of `.maps` by the start of the map they lie in."""
    ordered = sorted(declarations, key=lambda d: d.start)
    starts = [d.start for d in ordered]
    found: dict[int, list[ElfRelocation]] = {start: [] for start in starts}
    for relocation in relocations:
        position = bisect_right(starts, relocation.offset) - 1
        if position < 0 or relocation.offset >= ordered[position].end:
            raise ObjectFormatError(f"a relocation at byte {relocation.offset} of .maps belongs to no map")
        found[starts[position]].append(relocation)
    return found


class _Draft:
    """A definition being read: members come in any order, sizes may be told twice."""

    def __init__(self, btf: Btf, name: str, *, outer: bool) -> None:
        self.btf = btf
        self.name = name
        self.outer = outer
        self.numbers: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.type_ids: dict[str, int] = {}
        self.inner: MapSpec | None = None

    def set_size(self, what: str, size: int) -> None:
        if self.sizes.setdefault(what, size) != size:
            raise ObjectFormatError(f"map {self.name}: {what} size {self.sizes[what]} conflicts with {size}")

    def read(self, member: BtfMember) -> None:
        match member.name:
            case "type" | "max_entries" | "map_flags" | "numa_node" | "map_extra":
                self.numbers[member.name] = _number(self.btf, self.name, member)
            case "pinning" if self.outer:
                self.numbers["pinning"] = _number(self.btf, self.name, member)
                if self.numbers["pinning"] > _PIN_BY_NAME:
                    raise ObjectFormatError(f"map {self.name}: unknown pinning {self.numbers['pinning']}")
            case "key_size" | "value_size":
                self.set_size(member.name.removesuffix("_size"), _number(self.btf, self.name, member))
            case "key" | "value":
                pointer = self.btf.type(member.type_id)
                if pointer.kind != BtfKind.BTF_KIND_PTR:
                    raise ObjectFormatError(f"map {self.name}: {member.name} is not given with __type")
                self.type_ids[member.name] = pointer.value
                self.set_size(member.name, self.btf.size(pointer.value))
            case "values" if self.outer:
                self.set_size("value", 4)
                self.inner = _inner(self.btf, self.name, member, self.numbers.get("type", 0))
            case _:
                raise ObjectFormatError(f"map {self.name}: unknown member {member.name!r}")


def _definition(btf: Btf, name: str, definition: BtfType, *, outer: bool) -> MapSpec:
    draft = _Draft(btf, name, outer=outer)
    for member in btf.members(definition):
        draft.read(member)
    numbers, sizes, type_ids = draft.numbers, draft.sizes, draft.type_ids
    if "type" not in numbers:
        raise ObjectFormatError(f"map {name}: no type")
    for what, number in (numbers | sizes).items():
        # struct bpf_attr has 32 bits for all but map_extra, and ctypes would cut the rest off unseen.
        if number >> (64 if what == "map_extra" else 32):
            raise ObjectFormatError(f"map {name}: {what} of {number} does not fit 32 bits")
    if numbers["type"] == MapType.BPF_MAP_TYPE_PROG_ARRAY:
        sizes.setdefault("value", 4)
    return MapSpec(
        name=name,
        type=numbers["type"],
        key_size=sizes.get("key", 0),
        value_size=sizes.get("value", 0),
        max_entries=numbers.get("max_entries", 0),
        flags=numbers.get("map_flags", 0),
        map_extra=numbers.get("map_extra", 0),
        numa_node=numbers.get("numa_node"),
        pin_by_name=numbers.get("pinning", 0) == _PIN_BY_NAME,
        btf_key_type_id=type_ids.get("key", 0),
        btf_value_type_id=type_ids.get("value", 0),
        inner=draft.inner,
        kernel_name=name,
    )


def _number(btf: Btf, name: str, member: BtfMember) -> int:
    """The number that `__uint` (a pointer to an array) or `__ulong` (an enum) encodes."""
    record = btf.resolve(member.type_id)
    if record.kind == BtfKind.BTF_KIND_PTR:
        array = btf.type(record.value)
        if array.kind == BtfKind.BTF_KIND_ARRAY:
            return btf.word(array, 5)
    elif record.kind == BtfKind.BTF_KIND_ENUM and record.vlen == 1:
        return btf.word(record, 4)
    elif record.kind == BtfKind.BTF_KIND_ENUM64 and record.vlen == 1:
        return btf.word(record, 4) | btf.word(record, 5) << 32
    raise ObjectFormatError(f"map {name}: {member.name} is not given with __uint")


def _inner(btf: Btf, name: str, member: BtfMember, map_type: int) -> MapSpec | None:
    array = btf.type(member.type_id)
    if array.kind != BtfKind.BTF_KIND_ARRAY:
        raise ObjectFormatError(f"map {name}: values is not given with __array")
    pointer = btf.resolve(btf.word(array, 3))
    if pointer.kind != BtfKind.BTF_KIND_PTR:
        raise ObjectFormatError(f"map {name}: values holds no pointers")
    target = btf.resolve(pointer.value)
    if map_type == MapType.BPF_MAP_TYPE_PROG_ARRAY and target.kind == BtfKind.BTF_KIND_FUNC_PROTO:
        return None
    if map_type in _OF_MAPS and target.kind == BtfKind.BTF_KIND_STRUCT and target.vlen <= _MAX_ATTRIBUTES:
        return _definition(btf, f"{name}.inner", target, outer=False)
    raise ObjectFormatError(f"map {name}: values fits neither a map of maps nor a program array")


def _slots(declaration: _Declaration, relocations: list[ElfRelocation], maps: set[str]) -> tuple[Slot, ...]:
    """The initial entries, which the compiler leaves as relocations of `.maps`."""
    spec, slots = declaration.spec, []
    for relocation in relocations:
        at = relocation.offset
        if declaration.values_at is None or at < declaration.values_at or (at - declaration.values_at) % 8:
            raise ObjectFormatError(f"map {spec.name}: a relocation at byte {at} of .maps is no slot of it")
        target = relocation.symbol
        is_program = spec.type == MapType.BPF_MAP_TYPE_PROG_ARRAY
        if (target.type != "STT_FUNC") if is_program else (target.name not in maps):
            wanted = "program" if is_program else "map"
            raise ObjectFormatError(f"map {spec.name}: its slot names {target.name!r}, which is no {wanted}")
        slots.append(Slot((at - declaration.values_at) // 8, target.name, is_program))
    return tuple(slots)


def data_maps(image: ElfImage, btf: Btf | None, object_name: str) -> dict[str, MapSpec]:
    """One array of one entry per data section, by section name."""
    maps: dict[str, MapSpec] = {}
    total = 0
    for section in image.sections:
        if not is_data_section(section.name) or section.size == 0:
            continue
        total += section.size
        if total > _MAX_ALL_DATA_BYTES:
            raise ObjectFormatError(f"the data sections take more than {_MAX_ALL_DATA_BYTES} bytes together")
        if section.size > _MAX_DATA_BYTES:
            raise ObjectFormatError(f"section {section.name} of {section.size} bytes is too large for a map")
        datasec = btf.datasecs.get(section.name) if btf is not None else None
        read_only = section.name.startswith(".rodata")
        maps[section.name] = MapSpec(
            name=section.name,
            type=MapType.BPF_MAP_TYPE_ARRAY,
            key_size=4,
            value_size=section.size,
            max_entries=1,
            flags=MapFlag.BPF_F_RDONLY_PROG if read_only else 0,
            # String literals (.rodata.str1.1) have no variables and so no DATASEC.
            btf_value_type_id=datasec.id if datasec is not None else 0,
            contents=section.data or bytes(section.size),
            read_only=read_only,
            variables=MappingProxyType(_variables(btf, datasec, section.size)),
            kernel_name=_data_map_name(object_name, section.name),
        )
    return maps


def _data_map_name(object_name: str, section: str) -> str:
    """`traffic.rodata`: what `bpftool map` shows; a section with a name of its own keeps that."""
    if "." in section[1:]:
        return section[:15]
    return object_name[: 15 - max(7, len(section))] + section


def _variables(btf: Btf | None, datasec: BtfType | None, section_bytes: int) -> dict[str, Variable]:
    if btf is None or datasec is None:
        return {}
    found: dict[str, Variable] = {}
    for entry in btf.entries(datasec):
        name = btf.name(entry.type_id)
        if entry.offset + entry.size > section_bytes:
            raise ObjectFormatError(f"variable {name} reaches past the end of its section")
        found[name] = Variable(name, entry.offset, entry.size, btf.type(entry.type_id).value)
    return found
