"""Names to ids: on blobs made for it, damaged ones, and random ones compared with the whole decoder."""

import os
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chadthrottle.bpf.btf import BTF_HEADER, Btf
from chadthrottle.bpf.constants import BtfKind
from chadthrottle.bpf.errors import NotSupportedError, ObjectFormatError
from chadthrottle.bpf.kernel_btf import VMLINUX, KernelBtf
from chadthrottle.errors import ChadthrottleError, KernelCannotError

# Words behind struct btf_type: fixed, and for each entry.
TRAILERS = {
    BtfKind.BTF_KIND_INT: (1, 0),
    BtfKind.BTF_KIND_PTR: (0, 0),
    BtfKind.BTF_KIND_ARRAY: (3, 0),
    BtfKind.BTF_KIND_STRUCT: (0, 3),
    BtfKind.BTF_KIND_ENUM: (0, 2),
    BtfKind.BTF_KIND_TYPEDEF: (0, 0),
    BtfKind.BTF_KIND_FUNC: (0, 0),
    BtfKind.BTF_KIND_FUNC_PROTO: (0, 2),
    BtfKind.BTF_KIND_VAR: (1, 0),
    BtfKind.BTF_KIND_DATASEC: (0, 3),
    BtfKind.BTF_KIND_DECL_TAG: (1, 0),
    BtfKind.BTF_KIND_ENUM64: (0, 3),
}
Record = tuple[BtfKind, str, int]


def blob(*records: Record) -> bytes:
    """BTF with these types: kind, name, number of entries; entries are full of name offsets."""
    strings, offsets = b"\0", {"": 0}
    types = b""
    for kind, name, entries in records:
        if name not in offsets:
            offsets[name] = len(strings)
            strings += name.encode() + b"\0"
        fixed, each = TRAILERS[kind]
        filling = [offsets[name]] * (fixed + each * entries)
        types += struct.pack(f"<{3 + len(filling)}I", offsets[name], kind << 24 | (entries if each else 0), 1, *filling)
    header = BTF_HEADER.pack(0xEB9F, 1, 0, BTF_HEADER.size, 0, len(types), len(types), len(strings))
    return header + types + strings


EXAMPLE = blob(
    (BtfKind.BTF_KIND_INT, "int", 0),
    (BtfKind.BTF_KIND_STRUCT, "file", 5),
    (BtfKind.BTF_KIND_TYPEDEF, "btf_trace_sched_process_fork", 0),
    (BtfKind.BTF_KIND_FUNC_PROTO, "", 3),
    (BtfKind.BTF_KIND_FUNC, "tcp_v4_connect", 0),
    (BtfKind.BTF_KIND_FUNC, "bpf_iter_task_file", 0),
    (BtfKind.BTF_KIND_FUNC, "bpf_lsm_file_open", 0),
    (BtfKind.BTF_KIND_VAR, "bpf_prog_active", 0),
    (BtfKind.BTF_KIND_DATASEC, ".data..percpu", 2),
    (BtfKind.BTF_KIND_FUNC, "file", 0),
)


@pytest.fixture
def example() -> KernelBtf:
    return KernelBtf(EXAMPLE, "example")


def test_ids_count_from_1_in_the_order_of_the_records(example: KernelBtf) -> None:
    assert example.find(BtfKind.BTF_KIND_INT, "int") == 1
    assert example.find(BtfKind.BTF_KIND_STRUCT, "file") == 2
    assert example.find(BtfKind.BTF_KIND_FUNC, "file") == 10
    assert example.tracepoint("sched_process_fork") == 3
    assert example.function("tcp_v4_connect") == 5
    assert example.iterator("task_file") == 6
    assert example.lsm_hook("file_open") == 7
    assert example.variable("bpf_prog_active") == 8


def test_absent_names(example: KernelBtf) -> None:
    for kind, name in (
        (BtfKind.BTF_KIND_FUNC, "absent"),
        (BtfKind.BTF_KIND_FUNC, "int"),  # of another kind
        (BtfKind.BTF_KIND_FUNC, "connect"),  # the tail of a name
        (BtfKind.BTF_KIND_FUNC, "tcp_v4"),  # the head of one
        (BtfKind.BTF_KIND_FUNC_PROTO, ""),
        (BtfKind.BTF_KIND_INT, "int\0file"),
    ):
        assert example.find(kind, name) is None


def test_the_nearest_name_is_suggested(example: KernelBtf) -> None:
    with pytest.raises(KernelCannotError, match="no tracepoint sched_proces_fork") as caught:
        example.tracepoint("sched_proces_fork")
    assert caught.value.hint == "The nearest name is sched_process_fork."
    with pytest.raises(KernelCannotError, match="no BPF iterator task_fil") as caught:
        example.iterator("task_fil")
    assert caught.value.hint == "The nearest name is task_file."
    with pytest.raises(KernelCannotError, match="no function zzz") as caught:
        example.function("zzz")
    assert caught.value.hint is None


def test_the_first_of_several_is_found() -> None:
    """And one in the middle of many marks, with entries that look like names everywhere."""
    records: list[Record] = [(BtfKind.BTF_KIND_STRUCT, f"s{n}", n % 5) for n in range(2000)]
    records[700:700] = [(BtfKind.BTF_KIND_FUNC, "twice", 0)]
    records.append((BtfKind.BTF_KIND_FUNC, "twice", 0))
    btf = KernelBtf(blob(*records), "many")
    assert btf.find(BtfKind.BTF_KIND_FUNC, "twice") == 701
    assert btf.find(BtfKind.BTF_KIND_STRUCT, "s1999") == 2001
    assert btf.find(BtfKind.BTF_KIND_STRUCT, "s0") == 1


RECORDS = st.lists(
    st.tuples(st.sampled_from(list(TRAILERS)), st.sampled_from(["", "a", "b", "ab", "file"]), st.integers(0, 4)),
    max_size=600,
)


@given(RECORDS)
def test_agrees_with_decoding_it_whole(records: list[Record]) -> None:
    data = blob(*records)
    whole, found = Btf.parse(data), KernelBtf(data, "random")
    for kind in TRAILERS:
        for name in ("a", "b", "ab", "file"):
            ids = [t.id for t in whole.table if t.kind == kind and whole.string(t.name_offset) == name]
            assert found.find(kind, name) == (ids[0] if ids else None)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: data[:10], "shorter than its header"),
        (lambda _: b"", "shorter than its header"),
        (lambda data: b"\xeb\x9f" + data[2:], "no little-endian BTF"),
        (lambda data: data[:2] + b"\2" + data[3:], "no little-endian BTF"),
        (lambda data: data[:-1], "past its end"),
        (lambda data: data[:4] + b"\x01\0\0\0" + data[8:], "past its end"),
        (lambda data: data[:12] + b"\xff\xff\xff\xff" + data[16:], "past its end"),
        (lambda data: data[:8] + b"\x02\0\0\0" + data[12:] + b"\0\0", "not aligned"),
        (lambda data: data[:-1] + b"x", "not terminated"),
    ],
)
def test_damaged_headers(damage: object, why: str) -> None:
    assert callable(damage)
    with pytest.raises(ObjectFormatError, match=why):
        KernelBtf(damage(EXAMPLE), "damaged")


def test_a_kind_of_the_future_is_an_error_and_no_wrong_id() -> None:
    data = bytearray(EXAMPLE)
    data[BTF_HEADER.size + 7] = 0x1E
    btf = KernelBtf(bytes(data), "future")
    with pytest.raises(ObjectFormatError, match="unknown kind 30"):
        btf.function("tcp_v4_connect")


def test_a_record_that_reaches_past_the_end() -> None:
    data = bytearray(blob((BtfKind.BTF_KIND_STRUCT, "s", 1), (BtfKind.BTF_KIND_FUNC, "f", 0)))
    data[BTF_HEADER.size + 4] = 200
    btf = KernelBtf(bytes(data), "long")
    with pytest.raises(ObjectFormatError, match="past the end"):
        btf.function("f")


@given(st.data())
def test_whatever_the_damage_the_answer_is_typed_and_soon(data: st.DataObject) -> None:
    damaged = bytearray(EXAMPLE)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    started = time.monotonic()
    try:
        btf = KernelBtf(bytes(damaged), "damaged")
        btf.tracepoint("sched_process_fork")
        btf.function("tcp_v4_conect")
    except ChadthrottleError:
        pass
    assert time.monotonic() - started < 1


class TestFiles:
    def test_a_copy_in_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "btf").write_bytes(EXAMPLE)
        assert KernelBtf.open(tmp_path / "btf").function("tcp_v4_connect") == 5

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ObjectFormatError, match="not a file"):
            KernelBtf.open(tmp_path)
        with pytest.raises(ObjectFormatError, match="not a file"):
            KernelBtf.open("/dev/zero")
        with pytest.raises(FileNotFoundError):
            KernelBtf.open(tmp_path / "absent")

    def test_one_that_is_far_too_large(self, tmp_path: Path) -> None:
        with (tmp_path / "huge").open("wb") as huge:
            huge.truncate(1 << 30)
        with pytest.raises(ObjectFormatError, match="too large"):
            KernelBtf.open(tmp_path / "huge")


@pytest.mark.skipif(not os.access(VMLINUX, os.R_OK), reason=f"{VMLINUX} cannot be read")
def test_this_machines_kernel() -> None:
    btf = KernelBtf.open()
    assert btf.find(BtfKind.BTF_KIND_STRUCT, "task_struct")
    assert btf.function("schedule")


def test_a_kernel_without_btf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from chadthrottle.bpf import kernel_btf

    monkeypatch.setattr(kernel_btf, "VMLINUX", tmp_path / "vmlinux")
    with pytest.raises(NotSupportedError, match="CONFIG_DEBUG_INFO_BTF"):
        KernelBtf.open(tmp_path / "vmlinux")
