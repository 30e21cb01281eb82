"""The running kernel's BTF: ids compared with those of the whole decoder, and how long a lookup takes."""

import os
import time

import pytest

from chadthrottle.bpf import kernel_btf
from chadthrottle.bpf.btf import Btf
from chadthrottle.bpf.constants import AttachType, BtfKind, ProgType
from chadthrottle.bpf.errors import BpfError
from chadthrottle.bpf.kernel_btf import VMLINUX, KernelBtf, vmlinux
from chadthrottle.errors import KernelCannotError
from tests.support import raw_programs as raw
from tests.support.patience import patient

TRACING = ProgType.BPF_PROG_TYPE_TRACING


def test_ids_agree_with_decoding_it_whole() -> None:
    """Up to 60 names of each kind, spread over the whole file."""
    whole = Btf.parse(VMLINUX.read_bytes())
    first: dict[tuple[int, str], int] = {}
    for record in whole.table:
        if record.name_offset:
            first.setdefault((record.kind, whole.string(record.name_offset)), record.id)
    btf = KernelBtf.open()
    names: dict[int, list[str]] = {}
    for kind, name in first:
        names.setdefault(kind, []).append(name)
    assert len(names) >= 7
    sample = [(kind, name) for kind, all_of_it in names.items() for name in all_of_it[:: len(all_of_it) // 60 + 1]]
    assert len(sample) > 200
    for kind, name in sample:
        assert btf.find(BtfKind(kind), name) == first[kind, name], name


@pytest.mark.parametrize("name", ["sched_process_fork", "sched_process_exit", "inet_sock_set_state"])
def test_the_kernel_takes_a_tracepoints_id(name: str) -> None:
    program = raw.load(
        TRACING,
        raw.returning(0),
        expected_attach_type=AttachType.BPF_TRACE_RAW_TP,
        attach_btf_id=vmlinux().tracepoint(name),
    )
    with program:
        assert program.info().attach_btf_id == vmlinux().tracepoint(name)


@pytest.mark.parametrize("name", ["task_file", "tcp", "bpf_map"])
def test_the_kernel_takes_an_iterators_id(name: str) -> None:
    raw.load(
        TRACING,
        raw.returning(0),
        expected_attach_type=AttachType.BPF_TRACE_ITER,
        attach_btf_id=vmlinux().iterator(name),
    ).close()


def test_and_refuses_the_next() -> None:
    with pytest.raises(BpfError):
        raw.load(
            TRACING,
            raw.returning(0),
            expected_attach_type=AttachType.BPF_TRACE_ITER,
            attach_btf_id=vmlinux().iterator("tcp") - 1,
        )


def test_a_misspelt_name_is_corrected() -> None:
    with pytest.raises(KernelCannotError, match="no tracepoint sched_proces_fork") as caught:
        vmlinux().tracepoint("sched_proces_fork")
    assert caught.value.hint == "The nearest name is sched_process_fork."


def test_reading_page_by_page_gives_the_same() -> None:
    """As on kernels that cannot map the file (6.12)."""
    fd = os.open(VMLINUX, os.O_RDONLY)
    try:
        data = kernel_btf._read_all(fd)
    finally:
        os.close(fd)
    assert len(data) == VMLINUX.stat().st_size
    assert KernelBtf(data, "read").tracepoint("sched_process_fork") == vmlinux().tracepoint("sched_process_fork")


def test_a_first_lookup_feels_like_nothing() -> None:
    """Measured here: 10 to 30 ms with opening, wherever the name is. Decoding it all takes 300 to 550 ms."""
    for kind, name in ((BtfKind.BTF_KIND_TYPEDEF, "btf_trace_sched_process_fork"), (BtfKind.BTF_KIND_FUNC, "absent")):
        took = []
        for _ in range(3):
            started = time.perf_counter()
            KernelBtf.open().find(kind, name)
            took.append(time.perf_counter() - started)
        assert min(took) < patient(0.06)
