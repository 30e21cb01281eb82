"""CO-RE failures in words, from a log's last words only."""

from collections.abc import Callable
from pathlib import Path

import pytest

from chadthrottle.bpf.core_reloc import describe, explain_refusal, source_line
from chadthrottle.bpf.parse import open_object
from chadthrottle.bpf.spec import ObjectSpec


@pytest.fixture
def spec(object_path: Callable[[str], Path]) -> ObjectSpec:
    return open_object(object_path("core"))


def test_relocations_are_described_by_type_and_path(spec: ObjectSpec) -> None:
    assert spec.btf is not None
    wants = {describe(spec.btf, r) for p in spec.programs.values() for r in p.core_relocations}
    assert "the offset of struct signal_struct.rlim[7].rlim_cur" in wants
    assert "the existence of struct task_struct___old.no_such_field" in wants
    assert "the size of struct task_struct.comm" in wants
    assert "the bit position of struct sock.__sk_common.skc_reuse" in wants


def test_a_poisoned_call_is_blamed_only_if_it_was_the_end(spec: ObjectSpec) -> None:
    assert spec.btf is not None
    program = spec.programs["flavours"]
    poisoned = next(r for r in program.core_relocations if "no_such_field" in describe(spec.btf, r))
    call = f"{poisoned.instruction}: (85) call unknown#195896080\n"
    failed = call + "invalid func unknown#195896080\nprocessed 9 insns (limit 1000000)\n"
    explained = explain_refusal(program, spec.btf, failed)
    assert explained is not None
    assert "task_struct___old.no_such_field" in explained
    assert "core.bpf.c:" in explained
    other = call + "R1 unbounded memory access\nprocessed 9 insns (limit 1000000)\n"
    assert explain_refusal(program, spec.btf, other) is None


def test_relocations_that_went_well_are_not_blamed(spec: ObjectSpec) -> None:
    assert spec.btf is not None
    program = spec.programs["tasks"]
    well = "prog '': relo #0: patched insn #1 (ALU/ALU64) imm 8 -> 1544\n"
    assert explain_refusal(program, spec.btf, well + "R2 !read_ok\nprocessed 1 insns\n") is None
    badly = "prog '': relo #0: no matching targets found\nprocessed 0 insns\n"
    explained = explain_refusal(program, spec.btf, badly)
    assert explained is not None
    assert "(no matching targets found)" in explained
    assert explain_refusal(program, spec.btf, badly.replace("#0", "#4000")) is None


def test_source_lines(spec: ObjectSpec) -> None:
    assert spec.btf is not None
    line = source_line(spec.programs["tasks"], spec.btf, 0)
    assert line is not None
    assert "core.bpf.c:" in line
