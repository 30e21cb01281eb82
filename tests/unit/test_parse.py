"""What an object file becomes: the spec, the same on every machine and without root."""

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from chadthrottle.bpf.constants import AttachType, MapFlag, MapType, ProgFlag, ProgType
from chadthrottle.bpf.parse import open_object
from chadthrottle.bpf.spec import ReferenceKind, Slot
from chadthrottle.errors import UsageError

ObjectPath = Callable[[str], Path]


def test_programs_of_every_section(object_path: ObjectPath) -> None:
    spec = open_object(object_path("sections"))
    assert len(spec.programs) == 39
    assert all(program.problem is None for program in spec.programs.values())
    by_section = {program.section: program for program in spec.programs.values()}
    fork = by_section["tp_btf/sched_process_fork"]
    assert fork.type is ProgType.BPF_PROG_TYPE_TRACING
    assert fork.expected_attach_type is AttachType.BPF_TRACE_RAW_TP
    assert fork.attach_to == "sched_process_fork"
    assert by_section["cgroup/skb"].expected_attach_type is None


def test_optional_programs_are_marked(object_path: ObjectPath) -> None:
    programs = open_object(object_path("optional")).programs
    assert programs["always"].autoload
    assert not programs["when_asked"].autoload
    assert programs["when_asked"].expected_attach_type is AttachType.BPF_CGROUP_INET_EGRESS


def test_subprograms_are_appended_depth_first(object_path: ObjectPath) -> None:
    programs = open_object(object_path("subprogs")).programs
    order = {name: [f.name for f in program.functions] for name, program in programs.items()}
    assert order == {
        "first": ["first", "leaf", "outer", "middle", "inner"],
        "second": ["second", "outer", "middle", "inner", "leaf"],
        "third": ["third", "scale", "offset_by", "concealed"],
    }
    first = programs["first"]
    assert sum(f.length for f in first.functions) * 8 == len(first.instructions)
    assert [f.start for f in first.functions] == sorted(f.start for f in first.functions)
    assert first.func_info.count == 5
    assert first.line_info.count >= 5


def test_declared_maps(object_path: ObjectPath) -> None:
    maps = open_object(object_path("maps")).maps
    assert len(maps) == 16
    flows = maps["flows"]
    assert (flows.type, flows.key_size, flows.value_size) == (MapType.BPF_MAP_TYPE_HASH, 8, 8)
    assert (flows.max_entries, flows.flags) == (128, MapFlag.BPF_F_NO_PREALLOC)
    assert flows.btf_key_type_id
    assert flows.btf_value_type_id
    assert maps["percpu_flows"].value_size == 24
    assert (maps["untyped"].value_size, maps["untyped"].btf_value_type_id) == (24, 0)
    assert maps["on_node_zero"].numa_node == 0
    assert maps["flows"].numa_node is None
    assert maps["seen"].map_extra == 3
    assert maps["first_in_first_out"].key_size == 0
    assert open_object(object_path("pinning")).maps["ct_test_pinned"].pin_by_name


def test_maps_of_maps_and_program_arrays(object_path: ObjectPath) -> None:
    maps = open_object(object_path("map_in_map")).maps
    assert maps["outer_array"].slots == (Slot(1, "inner_one", False), Slot(3, "inner_three", False))
    inner = maps["outer_hash"].inner
    assert inner is not None
    assert (inner.type, inner.key_size, inner.max_entries) == (MapType.BPF_MAP_TYPE_HASH, 4, 16)
    jumps = open_object(object_path("prog_array")).maps["jumps"]
    assert jumps.slots == (Slot(1, "early", True), Slot(3, "late", True))
    assert jumps.value_size == 4


def test_data_sections_and_their_variables(object_path: ObjectPath) -> None:
    maps = open_object(object_path("globals")).maps
    constants = maps[".rodata"]
    assert constants.read_only
    assert constants.contents is not None
    knob = constants.variables["knob_u64"]
    assert constants.contents[knob.offset : knob.offset + 8] == (0x100000000).to_bytes(8, "little")
    assert knob.size == 8
    # Clang places statics, the loader the others; both must hold.
    data = maps[".data"]
    assert data.contents is not None
    static, shared = data.variables["data_static"], data.variables["data_global"]
    assert int.from_bytes(data.contents[static.offset :][:8], "little") == 12
    assert int.from_bytes(data.contents[shared.offset :][:4], "little") == 11
    assert maps[".bss"].contents == bytes(maps[".bss"].value_size)
    assert maps[".data.own"].variables["own_aligned"].offset == 64


def test_references_name_maps_and_offsets(object_path: ObjectPath) -> None:
    spec = open_object(object_path("globals"))
    kinds = {(r.kind, r.name) for r in spec.programs["sum_data"].references}
    assert (ReferenceKind.MAP_VALUE, ".data.own") in kinds
    aligned = spec.maps[".data.own"].variables["own_aligned"].offset
    assert aligned in {r.offset for r in spec.programs["sum_data"].references if r.name == ".data.own"}


def test_externs(object_path: ObjectPath) -> None:
    externs = open_object(object_path("kconfig")).externs
    assert {e.section for e in externs.values()} == {".kconfig"}
    placed = sorted((e.offset, e.size) for e in externs.values())
    assert all(one[0] + one[1] <= two[0] for one, two in pairwise(placed))
    kfuncs = open_object(object_path("kfunc")).externs
    assert kfuncs["bpf_no_such_kfunc"].weak
    assert not kfuncs["bpf_rcu_read_lock"].weak
    assert not open_object(object_path("ksym")).externs["schedule"].typed
    assert open_object(object_path("ksym_typed")).externs["bpf_prog_active"].typed


@pytest.mark.parametrize(
    ("name", "program", "words"),
    [
        ("fail_unknown_section", "program", "nonsense/foo"),
        ("fail_static_entry", "hidden_entry", "static"),
        ("fail_extern_missing", "call", "defined_nowhere"),
        ("fail_call_into_section", "caller", "callee"),
    ],
)
def test_a_program_that_cannot_be_linked_says_why(name: str, program: str, words: str, object_path: ObjectPath) -> None:
    problem = open_object(object_path(name)).programs[program].problem
    assert problem is not None
    assert words in problem


def test_license(object_path: ObjectPath) -> None:
    assert open_object(object_path("minimal")).license == "Dual MIT/GPL"
    assert open_object(object_path("licence_missing")).license == ""


def test_sleepable_programs_carry_the_flag() -> None:
    from chadthrottle.bpf.sections import parse_section

    section = parse_section("lsm.s/file_open")
    assert section is not None
    assert (section.flags, section.attach_to) == (ProgFlag.BPF_F_SLEEPABLE, "file_open")
    assert parse_section("lsm_cgroup.s/file_open") is None
    assert parse_section("cgroup_skb/sideways") is None


def test_parsing_touches_no_kernel(object_path: ObjectPath) -> None:
    # strace would see it too; this needs no strace: the child may not call bpf(2) at all.
    script = (
        "import sys; from chadthrottle.bpf import syscall, parse\n"
        "def refuse(*_): raise SystemExit('bpf(2) was called')\n"
        "syscall._resolve = refuse\n"
        "print(parse.open_object(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, str(object_path("core"))]
    one, two = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert "ObjectSpec" in one
    # Addresses aside, which repr() shows of the BTF, the same every time.
    assert one.split(" btf=")[0] == two.split(" btf=")[0]


@pytest.mark.parametrize("name", ["absent.bpf.o", "."])
def test_what_is_no_file_is_a_usage_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        open_object(tmp_path / name)
