"""CO-RE relocations in words: which type, field or enumerator a record asks for.

The kernel resolves them itself (core_relos of BPF_PROG_LOAD, Linux 5.17, kernel commit fbd94c7afcf9).
A relocation it cannot resolve poisons its instruction, and if the program can reach that, the
verifier complains of "invalid func unknown#195896080"; this module says what was missing.
"""

import re
from typing import Final

from chadthrottle.bpf.btf import Btf, BtfType
from chadthrottle.bpf.constants import BtfKind, CoreRelocationKind
from chadthrottle.bpf.errors import ObjectFormatError
from chadthrottle.bpf.spec import CoreRelocation, ProgramSpec

__all__ = ["describe", "explain_refusal", "source_line"]

# tools/lib/bpf/relo_core.c poisons with a call to helper 0xbad2310.
_POISONED: Final = "invalid func unknown#195896080"
_POISONED_CALL: Final = re.compile(r"^(\d+): \(85\) call unknown#195896080", re.MULTILINE)
# tools/lib/bpf/relo_core.h: BPF_CORE_SPEC_MAX_LEN. What lies behind is then no number, and not explained.
_MAX_STEPS: Final = 64
_REFUSED: Final = re.compile(r"relo #(\d+): (.*)")
_KINDS: Final = {
    BtfKind.BTF_KIND_STRUCT: "struct ",
    BtfKind.BTF_KIND_UNION: "union ",
    BtfKind.BTF_KIND_ENUM: "enum ",
    BtfKind.BTF_KIND_ENUM64: "enum ",
    BtfKind.BTF_KIND_FWD: "struct ",
}
_WANTED: Final = {
    CoreRelocationKind.BPF_CORE_FIELD_BYTE_OFFSET: "the offset of",
    CoreRelocationKind.BPF_CORE_FIELD_BYTE_SIZE: "the size of",
    CoreRelocationKind.BPF_CORE_FIELD_EXISTS: "the existence of",
    CoreRelocationKind.BPF_CORE_FIELD_SIGNED: "the signedness of",
    CoreRelocationKind.BPF_CORE_FIELD_LSHIFT_U64: "the bit position of",
    CoreRelocationKind.BPF_CORE_FIELD_RSHIFT_U64: "the bit width of",
    CoreRelocationKind.BPF_CORE_TYPE_ID_LOCAL: "the local type id of",
    CoreRelocationKind.BPF_CORE_TYPE_ID_TARGET: "the kernel's type id of",
    CoreRelocationKind.BPF_CORE_TYPE_EXISTS: "the existence of",
    CoreRelocationKind.BPF_CORE_TYPE_SIZE: "the size of",
    CoreRelocationKind.BPF_CORE_ENUMVAL_EXISTS: "the existence of",
    CoreRelocationKind.BPF_CORE_ENUMVAL_VALUE: "the value of",
    CoreRelocationKind.BPF_CORE_TYPE_MATCHES: "a match for",
}


def describe(btf: Btf, relocation: CoreRelocation) -> str:
    """For instance `the offset of struct sock.sk_rcvbuf`. Never raises: damage is described too."""
    try:
        wanted = _WANTED[CoreRelocationKind(relocation.kind)]
    except ValueError:
        wanted = f"(unknown relocation kind {relocation.kind})"
    try:
        return f"{wanted} {_target(btf, relocation)}"
    except (ObjectFormatError, ValueError, IndexError):
        return f"{wanted} type {relocation.type_id}, access {relocation.access!r}"


def _target(btf: Btf, relocation: CoreRelocation) -> str:
    record = btf.resolve(relocation.type_id)
    name = _KINDS.get(BtfKind(record.kind), "") + (btf.string(record.name_offset) or "(anonymous)")
    steps = [int(step) for step in relocation.access.split(":", _MAX_STEPS)]
    kind = relocation.kind
    if kind in (
        CoreRelocationKind.BPF_CORE_ENUMVAL_EXISTS,
        CoreRelocationKind.BPF_CORE_ENUMVAL_VALUE,
    ):
        return f"{name}::{btf.enumerator(record, steps[0])}"
    if kind > CoreRelocationKind.BPF_CORE_FIELD_RSHIFT_U64:
        return name
    return name + _path(btf, record, steps[1:])


def _path(btf: Btf, record: BtfType, steps: list[int]) -> str:
    path = ""
    for step in steps:
        if record.kind == BtfKind.BTF_KIND_ARRAY:
            path += f"[{step}]"
            type_id = btf.word(record, 3)
        else:
            member = btf.member(record, step)
            path += f".{member.name}" if member.name else ""
            type_id = member.type_id
        record = btf.resolve(type_id)
    return path


def source_line(program: ProgramSpec, btf: Btf, instruction: int) -> str | None:
    """`file.bpf.c:12: text` of the last line_info record at or before `instruction`."""
    size, data, best = program.line_info.record_size, program.line_info.data, None
    for at in range(0, len(data), size or 1):
        if int.from_bytes(data[at : at + 4], "little") > instruction:
            break
        best = data[at : at + size]
    if best is None:
        return None
    file_name, text, place = (int.from_bytes(best[n : n + 4], "little") for n in (4, 8, 12))
    try:
        return f"{btf.string(file_name)}:{place >> 10}: {btf.string(text).strip()}"
    except ObjectFormatError:
        return None


def explain_refusal(program: ProgramSpec, btf: Btf, log: str) -> str | None:
    """What a log of the verifier says of CO-RE, in words; None if it failed for another reason.

    Its last words decide: a log is full of relocations that went well, and of poisoned instructions
    that were never reached.
    """
    words = [line for line in log.splitlines() if line.strip() and not line.startswith("processed ")]
    last = words[-1] if words else ""
    reason = ""
    if last.startswith(_POISONED):
        calls = list(_POISONED_CALL.finditer(log))
        at = int(calls[-1][1]) if calls else -1
        relocation = next((r for r in program.core_relocations if r.instruction == at), None)
    elif (found := _REFUSED.search(last)) and int(found[1]) < len(program.core_relocations):
        relocation = program.core_relocations[int(found[1])]
        reason = f" ({found[2]})"
    else:
        return None
    if relocation is None:
        return None
    where = source_line(program, btf, relocation.instruction)
    asked = describe(btf, relocation)
    return f"this kernel has nothing to give for {asked}{reason}" + (f"\n  {where}" if where else "")
