"""Programs of a few instructions, loaded without ELF, loader or compiler: tests of links need no more."""

import functools
import struct
from pathlib import Path

from chadthrottle.bpf import attr
from chadthrottle.bpf.constants import AttachType, BpfCmd, BtfKind, ProgType
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.syscall import bpf

BPF_FUNC_seq_write = 127  # as include/uapi/linux/bpf.h spells it

HOOK_TYPES = {
    AttachType.BPF_CGROUP_INET_INGRESS: ProgType.BPF_PROG_TYPE_CGROUP_SKB,
    AttachType.BPF_CGROUP_INET_EGRESS: ProgType.BPF_PROG_TYPE_CGROUP_SKB,
    AttachType.BPF_CGROUP_INET_SOCK_CREATE: ProgType.BPF_PROG_TYPE_CGROUP_SOCK,
    AttachType.BPF_CGROUP_SOCK_OPS: ProgType.BPF_PROG_TYPE_SOCK_OPS,
    AttachType.BPF_CGROUP_INET4_CONNECT: ProgType.BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
    AttachType.BPF_TCX_INGRESS: ProgType.BPF_PROG_TYPE_SCHED_CLS,
    AttachType.BPF_TCX_EGRESS: ProgType.BPF_PROG_TYPE_SCHED_CLS,
}


def instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """struct bpf_insn."""
    return struct.pack("<BBhi", code, dst | src << 4, offset, immediate)


def returning(result: int) -> bytes:
    """r0 = result; exit."""
    return instruction(0xB7, immediate=result) + instruction(0x95)


def load(
    prog_type: ProgType,
    instructions: bytes,
    *,
    name: str = "ct_test",
    expected_attach_type: AttachType | None = None,
    attach_btf_id: int = 0,
    attach_to: str = "",
) -> Program:
    """BPF_PROG_LOAD, GPL."""
    code, licence = attr.buffer_from(instructions), attr.buffer_from(b"GPL\0")
    request = attr.ProgLoad(
        prog_type=prog_type,
        insn_cnt=len(instructions) // 8,
        insns=attr.address(code),
        license=attr.address(licence),
        prog_name=name.encode()[:15],
        expected_attach_type=expected_attach_type or 0,
        attach_btf_id=attach_btf_id,
    )
    fd = bpf(BpfCmd.BPF_PROG_LOAD, request, name)
    return Program(fd, name, prog_type, expected_attach_type, attach_to)


def load_for(hook: AttachType, name: str = "ct_test", result: int = 1) -> Program:
    """A program for a cgroup or tcx hook that returns `result`."""
    return load(HOOK_TYPES[hook], returning(result), name=name, expected_attach_type=hook)


def load_undirected(name: str = "ct_test", result: int = 1) -> Program:
    """As section "cgroup/skb" loads: for either direction, nobody says which."""
    return load(ProgType.BPF_PROG_TYPE_CGROUP_SKB, returning(result), name=name)


def load_raw_tp(tracepoint: str, name: str = "ct_test") -> Program:
    """As section "raw_tp/…" loads."""
    return load(ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT, returning(0), name=name, attach_to=tracepoint)


def load_tp_btf(tracepoint: str, name: str = "ct_test") -> Program:
    """As section "tp_btf/…" loads."""
    return load(
        ProgType.BPF_PROG_TYPE_TRACING,
        returning(0),
        name=name,
        expected_attach_type=AttachType.BPF_TRACE_RAW_TP,
        attach_btf_id=kernel_type_id(f"btf_trace_{tracepoint}", BtfKind.BTF_KIND_TYPEDEF),
        attach_to=tracepoint,
    )


def load_iter(target: str, block: int = 8, name: str = "ct_test") -> Program:
    """As section "iter/…" loads; writes `block` zero bytes (at most 512) per object."""
    zero = [instruction(0x7A, dst=10, offset=-offset) for offset in range(8, block + 1, 8)]  # *(u64 *)(fp-x) = 0
    code = [
        instruction(0x79, dst=1, src=1),  # r1 = ctx->meta
        instruction(0x79, dst=1, src=1),  # r1 = meta->seq
        *zero,
        instruction(0xBF, dst=2, src=10),  # r2 = fp
        instruction(0x07, dst=2, immediate=-block),  # r2 -= block
        instruction(0xB7, dst=3, immediate=block),  # r3 = block
        instruction(0x85, immediate=BPF_FUNC_seq_write),
        returning(0),
    ]
    return load(
        ProgType.BPF_PROG_TYPE_TRACING,
        b"".join(code),
        name=name,
        expected_attach_type=AttachType.BPF_TRACE_ITER,
        attach_btf_id=kernel_type_id(f"bpf_iter_{target}", BtfKind.BTF_KIND_FUNC),
        attach_to=target,
    )


@functools.cache
def kernel_type_id(name: str, kind: BtfKind) -> int:
    """The BTF id of a kernel type: a plain walk, independent of the runtime's own reader."""
    data = Path("/sys/kernel/btf/vmlinux").read_bytes()
    _, _, _, header, type_offset, type_size, string_offset, _ = struct.unpack_from("<HBBIIIII", data)
    wanted = data.index(b"\0" + name.encode() + b"\0", header + string_offset) + 1 - header - string_offset
    words = memoryview(data)[header + type_offset : header + type_offset + type_size].cast("I")
    position, number = 0, 1
    while position < len(words):
        info = words[position + 1]
        if words[position] == wanted and info >> 24 & 0x1F == kind:
            return number
        position += 3 + _trailing_words(BtfKind(info >> 24 & 0x1F), info & 0xFFFF)
        number += 1
    raise LookupError(f"the kernel's BTF has no {kind.name} {name}")


def _trailing_words(kind: BtfKind, members: int) -> int:
    """How many 32-bit words follow struct btf_type (include/uapi/linux/btf.h)."""
    match kind:
        case BtfKind.BTF_KIND_INT | BtfKind.BTF_KIND_VAR | BtfKind.BTF_KIND_DECL_TAG:
            return 1
        case BtfKind.BTF_KIND_ARRAY:
            return 3
        case BtfKind.BTF_KIND_STRUCT | BtfKind.BTF_KIND_UNION | BtfKind.BTF_KIND_DATASEC | BtfKind.BTF_KIND_ENUM64:
            return 3 * members
        case BtfKind.BTF_KIND_ENUM | BtfKind.BTF_KIND_FUNC_PROTO:
            return 2 * members
        case _:
            return 0
