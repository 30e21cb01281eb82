"""What the subcommands of `python -m chadthrottle.bpf` do; each returns an Answer, none prints."""

import errno
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from chadthrottle.bpf import core_reloc, render
from chadthrottle.bpf.btf_fixup import KCONFIG
from chadthrottle.bpf.errors import BpfError, VerifierError
from chadthrottle.bpf.loader import LoadedObject, Loader, load
from chadthrottle.bpf.map_compat import type_name
from chadthrottle.bpf.maps import Map
from chadthrottle.bpf.spec import MapSpec, ObjectSpec, ProgramSpec
from chadthrottle.errors import ChadthrottleError, KernelCannotError, NotPermittedError, UsageError

__all__ = ["Answer", "check", "dump", "error_answer", "load_and_pin"]

_Json = dict[str, Any]
_SCHEMA = 1
# Where libbpf pins maps declared with LIBBPF_PIN_BY_NAME, so that objects share them with others'.
_PIN_ROOT = Path("/sys/fs/bpf")


class Answer(NamedTuple):
    """A command's result: `data` for --json, and the lines a person reads."""

    data: _Json
    text: Callable[[_Json], list[str]]

    def lines(self) -> list[str]:
        return self.text(self.data)


def error_answer(error: ChadthrottleError) -> _Json:
    """The contract's JSON for a failure."""
    return {
        "schema": _SCHEMA,
        "error": {"code": error.exit_code, "message": error.message, "hint": error.hint},
    }


def check(
    spec: ObjectSpec, chosen: Iterable[str], map_bytes_limit: int, *, verbose: bool = False
) -> tuple[Answer, int]:
    """Load every program by itself, or the chosen ones, and create every map.

    The status is 0 if all went well, else 3 (not permitted) or 5. Nothing is attached, pinned or kept.
    `verbose` shows the verifier's whole log to people; --json always has it.
    """
    wanted = list(chosen)
    _require_programs(spec, wanted)
    programs, maps = [], []
    with Loader(spec, map_bytes_limit=map_bytes_limit) as loader:
        for program in spec.programs.values():
            if not wanted or program.name in wanted:
                entry = _program_entry(program)
                programs.append(entry)
                if wanted or program.autoload:
                    _try_program(loader, program, entry)
        for one in spec.maps.values():
            entry = _map_entry(one)
            maps.append(entry)
            _try_map(loader, one, entry)
    codes = {entry["error"]["code"] for entry in (*programs, *maps) if entry["error"] is not None}
    status = 3 if 3 in codes else 5 if codes else 0
    data = {**_object_entry(spec), "programs": programs, "maps": maps}
    return Answer(data, render.check_verbose if verbose else render.check), status


def _try_program(loader: Loader, program: ProgramSpec, entry: _Json) -> None:
    started = time.perf_counter_ns()
    try:
        for name in _maps_of(program):
            loader.map(name)
        started = time.perf_counter_ns()
        loaded = loader.program(program.name)
        entry["load_ms"] = round((time.perf_counter_ns() - started) / 1e6, 3)
        entry["tag"] = loaded.info().tag
        entry["loaded"] = True
    except ChadthrottleError as error:
        entry["load_ms"] = round((time.perf_counter_ns() - started) / 1e6, 3)
        entry["loaded"] = False
        entry["error"] = _error_entry(error)


def _try_map(loader: Loader, spec: MapSpec, entry: _Json) -> None:
    try:
        loader.map(spec.name)
    except ChadthrottleError as error:
        entry["error"] = _error_entry(error)


def load_and_pin(spec: ObjectSpec, chosen: Iterable[str], pin_dir: Path | None, map_bytes_limit: int) -> Answer:
    """Load the object; with `pin_dir`, pin its programs and maps there: all, or none of them.

    The names are those of `bpftool prog loadall OBJ DIR pinmaps DIR`. Raises what `load` raises, and
    BpfError (EEXIST) for a name that is taken.
    """
    names = list(chosen)
    with load(spec, programs=names or None, pin_root=_PIN_ROOT, map_bytes_limit=map_bytes_limit) as loaded:
        pinned = _pin_all(loaded, pin_dir) if pin_dir is not None else []
        programs = {name: program.info() for name, program in loaded.programs.items()}
        maps = {name: held.info() for name, held in loaded.maps.items()}
    data = {
        **_object_entry(spec),
        "programs": [
            _program_entry(spec.programs[name]) | {"loaded": True, "tag": info.tag, "id": info.id}
            for name, info in programs.items()
        ],
        "maps": [
            (_map_entry(spec.maps[name]) if name in spec.maps else {"name": name}) | {"id": info.id}
            for name, info in maps.items()
        ],
        "pinned": [str(path) for path in pinned],
    }
    return Answer(data, render.load)


def _pin_all(loaded: LoadedObject, directory: Path) -> list[Path]:
    pinned = []
    with ExitStack() as undo:
        if not directory.exists():
            _make_dir(directory)
            undo.callback(directory.rmdir)
        held = [(name, program.pin) for name, program in loaded.programs.items()]
        held += [(_map_pin_name(name, m), m.pin) for name, m in loaded.maps.items()]
        for name, pin in held:
            path = directory / name.replace(".", "_")  # bpffs refuses dots (bpf_lookup in kernel/bpf/inode.c)
            pin(path)
            undo.callback(path.unlink)
            pinned.append(path)
        undo.pop_all()
    return pinned


def _map_pin_name(name: str, held: Map) -> str:
    """As libbpf's bpf_map__name(): every object has these four sections, and the kernel's name says whose it is."""
    return held.info().name if name in (".rodata", ".data", ".bss", KCONFIG) else name


def dump(spec: ObjectSpec) -> Answer:
    """Everything the object declares. Touches no kernel."""
    programs = []
    for program in spec.programs.values():
        entry = _program_entry(program)
        entry["functions"] = [f.name for f in program.functions]
        entry["references"] = [
            {"instruction": r.instruction, "kind": r.kind.value, "name": r.name, "offset": r.offset}
            for r in program.references
        ]
        entry["core_relocations"] = [
            {"instruction": r.instruction, "wants": core_reloc.describe(spec.btf, r)}
            for r in program.core_relocations
            if spec.btf is not None
        ]
        programs.append(entry)
    data = {
        **_object_entry(spec),
        "programs": programs,
        "maps": [_map_entry(m) for m in spec.maps.values()],
        "externs": [{"name": e.name, "section": e.section, "weak": e.weak} for e in spec.externs.values()],
        "btf_types": len(spec.btf.table) if spec.btf is not None else None,
    }
    return Answer(data, render.dump)


def _require_programs(spec: ObjectSpec, names: list[str]) -> None:
    for name in names:
        if name not in spec.programs:
            raise UsageError(
                f"object {spec.name} has no program {name!r}",
                hint=f"It has: {', '.join(spec.programs) or 'none'}.",
            )


def _make_dir(path: Path) -> None:
    try:
        path.mkdir()
    except OSError as error:
        message = f"cannot make {path}: {error.strerror}"
        if error.errno == errno.EROFS:
            hint = f"The filesystem of {path.parent} is mounted read-only; for writing: mount -o remount,rw PLACE"
            raise KernelCannotError(message, hint=hint) from error
        if error.errno == errno.EPERM and "." in path.name:
            raise UsageError(message, hint="Names in bpffs have no dots.") from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise NotPermittedError(message, hint="Run it with sudo.") from error
        hint = "It must lie in a bpffs; to mount one: mount -t bpf bpf /sys/fs/bpf"
        raise UsageError(message, hint=hint) from error


def _object_entry(spec: ObjectSpec) -> _Json:
    return {"schema": _SCHEMA, "object": spec.name, "license": spec.license}


def _maps_of(program: ProgramSpec) -> list[str]:
    """The maps a program refers to, in the order of first use."""
    kinds = ("map", "value")
    return list(dict.fromkeys(r.name for r in program.references if r.kind.value in kinds))


def _program_entry(program: ProgramSpec) -> _Json:
    attach = program.expected_attach_type
    return {
        "name": program.name,
        "section": program.section,
        "type": program.type.name,
        "expected_attach_type": attach.name if attach is not None else None,
        "optional": not program.autoload,
        "instructions": len(program.instructions) // 8,
        "maps": _maps_of(program),
        "problem": program.problem,
        "loaded": None,
        "tag": None,
        "load_ms": None,
        "error": None,
    }


def _map_entry(spec: MapSpec) -> _Json:
    return {
        "name": spec.name,
        "type": type_name(spec.type),
        "key_bytes": spec.key_size,
        "value_bytes": spec.value_size,
        "max_entries": spec.max_entries,
        "flags": spec.flags,
        "map_extra": spec.map_extra,
        "numa_node": spec.numa_node,
        "pin_by_name": spec.pin_by_name,
        "inner": _map_entry(spec.inner) if spec.inner is not None else None,
        "slots": {str(slot.index): slot.target for slot in spec.slots},
        "variables": {v.name: v.size for v in spec.variables.values()},
        "error": None,
    }


def _error_entry(error: ChadthrottleError) -> _Json:
    entry: _Json = {"code": error.exit_code, "message": error.message, "hint": error.hint}
    if isinstance(error, BpfError):
        entry["errno"] = error.errno
    if isinstance(error, VerifierError):
        entry["log"] = error.log
    return entry
