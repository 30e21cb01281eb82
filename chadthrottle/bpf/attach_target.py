"""Which kernel function or tracepoint a tracing program is verified against (attach_btf_id)."""

from collections.abc import Callable

from chadthrottle.bpf.constants import AttachType, ProgType
from chadthrottle.bpf.errors import ObjectNotSupportedError
from chadthrottle.bpf.kernel_btf import KernelBtf, vmlinux
from chadthrottle.bpf.spec import ProgramSpec

__all__ = ["attach_btf_id"]

_LOOKUPS: dict[AttachType, Callable[[KernelBtf, str], int]] = {
    AttachType.BPF_TRACE_RAW_TP: KernelBtf.tracepoint,
    AttachType.BPF_TRACE_ITER: KernelBtf.iterator,
    AttachType.BPF_TRACE_FENTRY: KernelBtf.function,
    AttachType.BPF_TRACE_FEXIT: KernelBtf.function,
    AttachType.BPF_TRACE_FSESSION: KernelBtf.function,
    AttachType.BPF_MODIFY_RETURN: KernelBtf.function,
    AttachType.BPF_LSM_MAC: KernelBtf.lsm_hook,
    AttachType.BPF_LSM_CGROUP: KernelBtf.lsm_hook,
}


def attach_btf_id(program: ProgramSpec) -> int:
    """The type id in the kernel's BTF; 0 for programs that need none.

    Raises what KernelBtf raises for an unknown name, and ObjectNotSupportedError for freplace and
    struct_ops, which need more than a name.
    """
    if program.type in (ProgType.BPF_PROG_TYPE_EXT, ProgType.BPF_PROG_TYPE_STRUCT_OPS):
        raise ObjectNotSupportedError(
            f"program {program.name} ({program.section}): this runtime loads no {program.type.name}"
        )
    if program.type not in (ProgType.BPF_PROG_TYPE_TRACING, ProgType.BPF_PROG_TYPE_LSM):
        return 0
    lookup = _LOOKUPS.get(program.expected_attach_type) if program.expected_attach_type is not None else None
    if lookup is None or not program.attach_to:
        raise ObjectNotSupportedError(
            f"program {program.name}: section {program.section!r} names nothing to attach to",
            hint="Write the target behind a slash, as in tp_btf/sched_process_exit.",
        )
    return lookup(vmlinux(), program.attach_to)
