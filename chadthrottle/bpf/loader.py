"""ObjectSpec → kernel objects.

    spec ── BTF ──┐
         ── maps ─┼── programs ── initial slots        undone in reverse if any step fails
         ── ids ──┘

`load` is what most callers want: everything or nothing. `Loader` loads one program at a time, for
tools that want to know which ones fail.
"""

import struct
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from chadthrottle.bpf.attach_target import attach_btf_id
from chadthrottle.bpf.btf_fixup import KCONFIG
from chadthrottle.bpf.btf_load import load_btf
from chadthrottle.bpf.constants import (
    BPF_INSN_SIZE,
    BPF_LD_IMM64,
    BPF_PSEUDO_MAP_FD,
    BPF_PSEUDO_MAP_VALUE,
)
from chadthrottle.bpf.descriptor import Descriptor
from chadthrottle.bpf.errors import ObjectNotSupportedError
from chadthrottle.bpf.extern_link import Patch, call_patch, kconfig_map, load_patch
from chadthrottle.bpf.map_load import DEFAULT_MAP_BYTES_LIMIT, create_map, open_shared
from chadthrottle.bpf.maps import Map
from chadthrottle.bpf.prog_load import KernelSide, load_program
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.spec import ObjectSpec, ProgramSpec, Reference, ReferenceKind
from chadthrottle.errors import ChadthrottleError, UsageError

__all__ = ["LoadedObject", "Loader", "load"]

_INSN = struct.Struct("<BBhi")


class LoadedObject:
    """The maps and programs of an object, in the kernel. A context manager that closes them all."""

    def __init__(self, maps: Mapping[str, Map], programs: Mapping[str, Program], owned: ExitStack) -> None:
        """`owned` closes what this object is to close: not the maps it was lent."""
        self.maps = maps
        self.programs = programs
        self._owned = owned

    def close(self) -> None:
        self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load(
    spec: ObjectSpec,
    *,
    programs: Iterable[str] | None = None,
    reuse: Mapping[str, Map] | None = None,
    pin_root: Path | None = None,
    map_bytes_limit: int = DEFAULT_MAP_BYTES_LIMIT,
) -> LoadedObject:
    """Load every map and the programs: those named, or all but the `?` ones. All or nothing.

    `reuse` supplies maps that exist already (checked for compatibility, and not closed by the
    result). Maps declared with pinning are opened below `pin_root`, or created and pinned there; with
    None they are not shared. A map that would take more than `map_bytes_limit` bytes is refused.

    Raises BpfError, VerifierError, CoreRelocationError, NotSupportedError, IncompatibleMapError,
    UsageError for an unknown name.
    """
    chosen = (
        [p for p in spec.programs.values() if p.autoload]
        if programs is None
        else [_named(spec, name) for name in programs]
    )
    for program in chosen:
        if program.problem is not None:
            raise ObjectNotSupportedError(f"program {program.name} ({program.section}): {program.problem}")
    with Loader(spec, reuse=reuse, pin_root=pin_root, map_bytes_limit=map_bytes_limit) as loader:
        for name in spec.maps:
            loader.map(name)
        if any(extern.section == KCONFIG for extern in spec.externs.values()):
            loader.map(KCONFIG)  # like every map, whether or not a program refers to it
        for program in chosen:
            loader.program(program.name)
        loader.fill_slots()
        loader.pin_shared()
        return loader.take()


def _named(spec: ObjectSpec, name: str) -> ProgramSpec:
    try:
        return spec.programs[name]
    except KeyError:
        raise UsageError(
            f"object {spec.name} has no program {name!r}",
            hint=f"It has: {', '.join(spec.programs) or 'none'}.",
        ) from None


class Loader:
    """Loads parts of one object on demand and owns them until `take`; a context manager."""

    def __init__(
        self,
        spec: ObjectSpec,
        *,
        reuse: Mapping[str, Map] | None = None,
        pin_root: Path | None = None,
        map_bytes_limit: int = DEFAULT_MAP_BYTES_LIMIT,
    ) -> None:
        self._spec = spec
        self._reuse = dict(reuse or {})
        self._pin_root = pin_root
        self._map_bytes_limit = map_bytes_limit
        self._stack = ExitStack()
        self._btf: Descriptor | None = None
        self._maps: dict[str, Map | ChadthrottleError] = {}
        self._programs: dict[str, Program] = {}
        self._to_pin: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def map(self, name: str) -> Map:
        """The map, created on the first call. Raises the same error again if that failed."""
        known = self._maps.get(name)
        if known is None:
            try:
                known = self._make_map(name)
            except ChadthrottleError as error:
                known = error
            self._maps[name] = known
        if isinstance(known, ChadthrottleError):
            raise known
        return known

    def program(self, name: str) -> Program:
        """Load one program and the maps it refers to. Raises as `load` does."""
        spec = _named(self._spec, name)
        if spec.problem is not None:
            raise ObjectNotSupportedError(f"program {spec.name} ({spec.section}): {spec.problem}")
        side = KernelSide(self._resolved(spec), self._btf_fd(), attach_btf_id(spec))
        fd = load_program(spec, self._spec.license, self._spec.btf, side)
        program = Program(fd, spec.name, spec.type, spec.expected_attach_type, spec.attach_to)
        self._stack.callback(program.close)
        self._programs[name] = program
        return program

    def fill_slots(self) -> None:
        """Fill the initial entries of maps of maps and program arrays. Raises BpfError."""
        for spec in self._spec.maps.values():
            for slot in spec.slots:
                target = self._programs.get(slot.target) if slot.is_program else self.map(slot.target)
                if target is not None:  # a program not chosen for loading leaves its slot empty
                    key, value = slot.index.to_bytes(4, "little"), target.fd.to_bytes(4, "little")
                    self.map(spec.name).update(key, value)

    def pin_shared(self) -> None:
        """Pin the maps declared with pinning that were not there yet: all, or none of them.

        Last of all steps, so that nothing of an object that failed to load is left in bpffs.
        """
        with ExitStack() as undo:
            for name in self._to_pin:
                path = (self._pin_root or Path()) / name
                self.map(name).pin(path)
                undo.callback(path.unlink)
            undo.pop_all()

    def take(self) -> LoadedObject:
        """Hand all that was loaded to the caller."""
        if self._btf is not None:
            self._btf.close()  # maps and programs hold it by themselves
        maps = {name: made for name, made in self._maps.items() if isinstance(made, Map)}
        return LoadedObject(maps, dict(self._programs), self._stack.pop_all())

    def _make_map(self, name: str) -> Map:
        spec = kconfig_map(self._spec) if name == KCONFIG else self._spec.maps[name]
        given = self._reuse.get(name)
        if given is not None:
            given.check_compatible(spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags)
            return given
        shared = None
        if spec.pin_by_name and self._pin_root is not None:
            shared = open_shared(spec, self._pin_root / name)
            if shared is None:
                self._to_pin.append(name)
        made = shared or create_map(spec, self._btf_fd(), self._map_bytes_limit)
        self._stack.callback(made.close)
        return made

    def _btf_fd(self) -> int:
        if self._spec.btf is None:
            return 0
        if self._btf is None:
            self._btf = Descriptor(load_btf(self._spec.btf))
            self._stack.callback(self._btf.close)
        return self._btf.fd

    def _resolved(self, spec: ProgramSpec) -> bytes:
        """The instructions with all that only the kernel could tell filled in."""
        code = bytearray(spec.instructions)
        for reference in spec.references:
            at = reference.instruction * BPF_INSN_SIZE
            opcode, registers, offset, _ = _INSN.unpack_from(code, at)
            patch = self._patch(reference)
            registers = registers & 0x0F | patch.source << 4
            _INSN.pack_into(code, at, opcode, registers, offset, patch.low)
            if opcode == BPF_LD_IMM64:
                _INSN.pack_into(code, at + BPF_INSN_SIZE, 0, 0, 0, patch.high)
        return bytes(code)

    def _patch(self, reference: Reference) -> Patch:
        match reference.kind:
            case ReferenceKind.MAP_FD:
                return Patch(BPF_PSEUDO_MAP_FD, self.map(reference.name).fd)
            case ReferenceKind.MAP_VALUE:
                return Patch(BPF_PSEUDO_MAP_VALUE, self.map(reference.name).fd, reference.offset)
            case ReferenceKind.EXTERN_VALUE:
                return Patch(BPF_PSEUDO_MAP_VALUE, self.map(KCONFIG).fd, reference.offset)
        extern, btf = self._spec.externs[reference.name], self._spec.btf
        if reference.kind is ReferenceKind.EXTERN_ADDRESS and btf is not None:
            return load_patch(extern, btf)
        return call_patch(extern)
