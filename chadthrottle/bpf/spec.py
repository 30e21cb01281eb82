"""What an object file says, as plain data: the same on every machine, no kernel involved.

`elf.py` and its neighbours make an ObjectSpec, `loader.py` turns it into kernel objects. All of it
is frozen; the `with_…` methods return a changed copy, so one parsed object can be loaded twice with
different knobs. What is never changed so is a NamedTuple: a dataclass costs four times as much to
define, which every run of a short command pays for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from chadthrottle.bpf.btf import Btf
from chadthrottle.bpf.constants import AttachType, ProgType
from chadthrottle.bpf.errors import ObjectFormatError
from chadthrottle.errors import UsageError

__all__ = [
    "CoreRelocation",
    "Extern",
    "FunctionSpec",
    "MapSpec",
    "ObjectSpec",
    "ProgramSpec",
    "RecordTable",
    "Reference",
    "ReferenceKind",
    "Slot",
    "Variable",
]


class ReferenceKind(Enum):
    """What a loader has to put into an instruction once it knows the kernel's answer."""

    MAP_FD = "map"
    MAP_VALUE = "value"
    EXTERN_CALL = "kfunc"
    EXTERN_ADDRESS = "ksym"
    EXTERN_VALUE = "kconfig"


class Reference(NamedTuple):
    """One instruction that names something outside the program.

    `name` is a key of ObjectSpec.maps or .externs; `offset` is the byte within the map's value for
    MAP_VALUE, else 0.
    """

    instruction: int
    kind: ReferenceKind
    name: str
    offset: int = 0


class CoreRelocation(NamedTuple):
    """struct bpf_core_relo, rebased to the program, with what it needs to be explained.

    `record` is the raw record whose first word (insn_off, bytes) the kernel reads rebased.
    """

    instruction: int
    kind: int
    type_id: int
    access: str
    record: bytes


@dataclass(frozen=True, slots=True)
class RecordTable:
    """func_info or line_info of one linked program: records of `record_size` bytes, back to back."""

    record_size: int = 0
    data: bytes = b""

    @property
    def count(self) -> int:
        return len(self.data) // self.record_size if self.record_size else 0


class FunctionSpec(NamedTuple):
    """Where a function lies in a linked program, in instructions."""

    name: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """One program, linked: its subprograms appended, calls between them resolved.

    `problem` says why it cannot be loaded (unknown section name, an undefined symbol …); the other
    programs of the object are unaffected, and the loader raises it only for a program it is asked
    to load.
    """

    name: str
    section: str
    type: ProgType
    expected_attach_type: AttachType | None
    """None where the section name does not imply one (`cgroup/skb`)."""
    attach_to: str
    """The part of the section name behind the type: a tracepoint, an iterator, a function."""
    flags: int
    """BPF_F_SLEEPABLE and the like."""
    autoload: bool
    """False for a section name that starts with `?`."""
    instructions: bytes
    functions: tuple[FunctionSpec, ...] = ()
    references: tuple[Reference, ...] = ()
    core_relocations: tuple[CoreRelocation, ...] = ()
    func_info: RecordTable = RecordTable()
    line_info: RecordTable = RecordTable()
    problem: str | None = None


class Variable(NamedTuple):
    """A global variable: its place in the section's map, in bytes, and its BTF type."""

    name: str
    offset: int
    size: int
    type_id: int


@dataclass(frozen=True, slots=True)
class Slot:
    """An initial entry of a map of maps or a program array: `index` → the object called `target`."""

    index: int
    target: str
    is_program: bool


@dataclass(frozen=True, slots=True)
class MapSpec:
    """A map as declared; sizes in bytes. `type` stays a number: other kernels know more types."""

    name: str
    """Key in ObjectSpec.maps: the variable's name, or `.rodata` and the like."""
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    map_extra: int = 0
    numa_node: int | None = None
    pin_by_name: bool = False
    btf_key_type_id: int = 0
    btf_value_type_id: int = 0
    inner: "MapSpec | None" = None
    slots: tuple[Slot, ...] = ()
    contents: bytes | None = None
    """The bytes of a data section; None for a map declared in `.maps`."""
    read_only: bool = False
    """Frozen once filled: `.rodata`."""
    variables: Mapping[str, Variable] = field(default_factory=lambda: MappingProxyType({}))
    kernel_name: str = ""
    """What to call it in the kernel, not yet cut to 15 bytes."""


class Extern(NamedTuple):
    """A symbol the kernel must supply: section `.ksyms` or `.kconfig`."""

    name: str
    section: str
    weak: bool
    type_id: int
    """BTF type in the object: FUNC for a kfunc, VAR for data."""
    typed: bool = True
    """False for `extern void x __ksym`: an address and nothing more."""
    size: int = 0
    """Bytes of the variable in `.kconfig`."""
    offset: int = 0
    """Where the variable lies in the `.kconfig` map."""


@dataclass(frozen=True, slots=True)
class ObjectSpec:
    """A whole object file."""

    name: str
    license: str
    programs: Mapping[str, ProgramSpec]
    maps: Mapping[str, MapSpec]
    externs: Mapping[str, Extern]
    btf: Btf | None
    """The object's BTF, fixed up for the kernel (see btf_fixup.py); None if it has none."""

    def with_constants(self, values: Mapping[str, int | bool | bytes]) -> "ObjectSpec":
        """Set global variables (`const volatile` knobs among them) before load.

        Integers are written in the variable's own width, and refused (UsageError) when they do not
        fit, as is a name that no data section has. Bytes must have exactly the variable's size.
        """
        maps = dict(self.maps)
        for name, value in values.items():
            holder = next((m for m in maps.values() if name in m.variables), None)
            if holder is None or holder.contents is None:
                known = sorted(v for m in maps.values() for v in m.variables)
                raise UsageError(
                    f"object {self.name} has no variable {name!r}",
                    hint=f"It has: {', '.join(known) or 'none'}.",
                )
            variable = holder.variables[name]
            raw = self._encode(variable, value)
            start, end = variable.offset, variable.offset + variable.size
            contents = holder.contents[:start] + raw + holder.contents[end:]
            maps[holder.name] = replace(holder, contents=contents)
        return replace(self, maps=MappingProxyType(maps))

    def with_map_sizes(
        self, max_entries: Mapping[str, int], value_sizes: Mapping[str, int] = MappingProxyType({})
    ) -> "ObjectSpec":
        """Set max_entries and value sizes (bytes) of declared maps before load.

        A map whose value size changes loses its value's BTF, which would contradict it. Raises
        UsageError for an unknown map or an impossible size.
        """
        maps = dict(self.maps)
        for name, count in max_entries.items():
            maps[name] = replace(self._declared(maps, name), max_entries=_size("max_entries", name, count))
        for name, size in value_sizes.items():
            sized = replace(self._declared(maps, name), value_size=_size("value size", name, size))
            maps[name] = replace(sized, btf_key_type_id=0, btf_value_type_id=0)
        return replace(self, maps=MappingProxyType(maps))

    def _declared(self, maps: Mapping[str, MapSpec], name: str) -> MapSpec:
        if name not in maps or maps[name].contents is not None:
            known = sorted(m.name for m in maps.values() if m.contents is None)
            raise UsageError(
                f"object {self.name} has no map {name!r} to resize",
                hint=f"It has: {', '.join(known) or 'none'}.",
            )
        return maps[name]

    def _encode(self, variable: Variable, value: int | bool | bytes) -> bytes:
        if isinstance(value, bytes):
            if len(value) != variable.size:
                raise UsageError(f"variable {variable.name} is {variable.size} bytes, not {len(value)}")
            return value
        if self.btf is None:
            raise ObjectFormatError(f"object {self.name} has variables but no BTF")
        if variable.size > 8 or not self.btf.is_integer(variable.type_id):
            raise UsageError(
                f"variable {variable.name} is no integer of at most 8 bytes",
                hint="Give its bytes instead.",
            )
        signed = self.btf.is_signed(variable.type_id)
        try:
            return int(value).to_bytes(variable.size, "little", signed=signed)
        except OverflowError:
            kind = "signed" if signed else "unsigned"
            raise UsageError(f"{value} does not fit {variable.name}: {kind}, {variable.size} bytes") from None


def _size(what: str, name: str, value: int) -> int:
    if not 0 < value < 1 << 32:
        raise UsageError(f"{what} of {name} must be 1 to 4294967295, not {value}")
    return value
