"""Links of tracepoints and iterators."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chadthrottle.bpf import attr
from chadthrottle.bpf.constants import BpfCmd, LinkType
from chadthrottle.bpf.errors import AttachError, BpfError
from chadthrottle.bpf.info import ids
from chadthrottle.bpf.iter_link import IterLink, attach_iter
from chadthrottle.bpf.links import Link
from chadthrottle.bpf.syscall import CAP_BPF
from chadthrottle.bpf.tracing_link import attach_raw_tp, attach_tp_btf
from tests.support import raw_programs as raw
from tests.support.children import in_child, keep_capabilities, kernel_without_links, refuse_bpf

TRACEPOINT = "sched_process_exit"


def is_alive(link_id: int) -> bool:
    return link_id in ids(BpfCmd.BPF_LINK_GET_NEXT_ID)


# Tracepoints


def test_raw_tp_tells_its_tracepoint() -> None:
    with raw.load_raw_tp(TRACEPOINT) as program, attach_raw_tp(program) as link:
        info = link.info()
        assert (info.type, info.name) == (LinkType.BPF_LINK_TYPE_RAW_TRACEPOINT, TRACEPOINT)
        assert info.program_id == program.info().id
        number = info.id
    assert not is_alive(number)


def test_raw_tp_at_a_tracepoint_by_name() -> None:
    with raw.load_raw_tp("") as program:
        with pytest.raises(AttachError, match="say which tracepoint"):
            attach_raw_tp(program)
        with attach_raw_tp(program, "sched_process_fork") as link:
            assert link.info().name == "sched_process_fork"


def test_raw_tp_at_a_tracepoint_that_does_not_exist() -> None:
    with raw.load_raw_tp("no_such_thing") as program, pytest.raises(AttachError) as caught:
        attach_raw_tp(program)
    assert caught.value.errno == errno.ENOENT
    assert "on tracepoint no_such_thing: ENOENT: this kernel has no such tracepoint" in caught.value.message


def test_tp_btf_tells_its_tracepoint() -> None:
    with raw.load_tp_btf(TRACEPOINT) as program, attach_tp_btf(program) as link:
        assert link.info().name == TRACEPOINT
        assert link.program_id == program.info().id


def test_tp_btf_on_a_kernel_that_opens_it_the_old_way() -> None:
    """Before 5.19, BPF_LINK_CREATE is EINVAL for these; here, for all of its users."""

    def attach() -> str:
        with attach_tp_btf(program) as link:
            return link.info().name

    with raw.load_tp_btf(TRACEPOINT) as program:
        assert in_child(attach, before=kernel_without_links()) == TRACEPOINT


@pytest.mark.parametrize("attach", [attach_raw_tp, attach_tp_btf])
def test_a_program_of_another_type_is_no_tracepoint_program(attach: type) -> None:
    with raw.load_undirected() as program:
        program.attach_to = TRACEPOINT
        with pytest.raises(AttachError) as caught:
            attach(program)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.command == "BPF_RAW_TRACEPOINT_OPEN"


def test_detach_of_a_link_that_cannot_be_forced() -> None:
    """BPF_LINK_DETACH is EOPNOTSUPP for tracepoints: closing is all there is."""
    with raw.load_raw_tp(TRACEPOINT) as program:
        link = attach_raw_tp(program)
        number = link.id
        link.detach()
        assert link.closed
        assert not is_alive(number)


def test_detach_removes_the_pin_it_knows(bpffs: Path) -> None:
    with raw.load_tp_btf(TRACEPOINT) as program, attach_tp_btf(program) as link:
        link.pin(bpffs / "link")
        number = link.id
    assert is_alive(number)
    Link.open_pinned(bpffs / "link").detach()
    assert not (bpffs / "link").exists()
    assert not is_alive(number)


def test_detach_says_when_somebody_else_holds_the_link(bpffs: Path) -> None:
    with raw.load_tp_btf(TRACEPOINT) as program, attach_tp_btf(program) as link:
        link.pin(bpffs / "link")
        with Link.by_id(link.id) as other, pytest.raises(AttachError, match="EBUSY: another pin or process"):
            other.detach()
        assert is_alive(link.id)


def test_update_of_a_link_that_cannot() -> None:
    with raw.load_tp_btf(TRACEPOINT) as program, raw.load_tp_btf(TRACEPOINT) as other:
        with attach_tp_btf(program) as link, pytest.raises(BpfError) as caught:
            link.update(other)
        assert caught.value.errno == errno.EINVAL


def test_not_permitted() -> None:
    """Seccomp's EPERM: on 6.18 attaching takes no capability, only loading does."""

    def forbid() -> None:
        refuse_bpf(errno.EPERM, BpfCmd.BPF_RAW_TRACEPOINT_OPEN)()
        keep_capabilities()()

    def attempt() -> list[object]:
        with pytest.raises(AttachError) as caught:
            attach_raw_tp(program)
        return [caught.value.errno, caught.value.exit_code, caught.value.hint]

    with raw.load_raw_tp(TRACEPOINT) as program:
        number, exit_code, hint = in_child(attempt, before=forbid)
    assert (number, exit_code) == (errno.EPERM, 3)
    assert "CAP_PERFMON" in hint


# Iterators


def test_an_iterator_tells_its_target() -> None:
    with raw.load_iter("task") as program, attach_iter(program) as link:
        assert isinstance(link, IterLink)
        assert (link.info().type, link.info().name) == (LinkType.BPF_LINK_TYPE_ITER, "task")


def test_an_iterator_walks_again_at_each_reading() -> None:
    with raw.load_iter("task", 8) as program, attach_iter(program) as link:
        before = link.read()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            during = link.read()
            assert child.stdin is not None
            child.stdin.close()
    assert len(before) % 8 == 0
    # One block per thread: itself and a child, and others may come and go.
    assert len(during) >= 16


@contextmanager
def threads(number: int) -> Iterator[None]:
    """As many more tasks for an iterator to walk."""
    done = threading.Event()
    started = [threading.Thread(target=done.wait) for _ in range(number)]
    for thread in started:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in started:
            thread.join()


@pytest.mark.parametrize("chunk_size", [512, 4096, 32 * 1024])
def test_output_larger_than_a_chunk_is_whole(chunk_size: int) -> None:
    with raw.load_iter("task", 512) as program, attach_iter(program) as link, threads(65):
        chunks = list(link.stream(chunk_size))
        assert max(map(len, chunks)) <= chunk_size
        assert sum(map(len, chunks)) % 512 == 0
        assert sum(map(len, chunks)) > 32 * 1024


def test_the_walk_ends_when_the_reader_gives_up() -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with raw.load_iter("task", 512) as program, attach_iter(program) as link:
        stream = link.stream(512)
        assert next(stream)
        stream.close()  # type: ignore[attr-defined] # a generator, which Iterator does not say
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_reading_has_a_limit() -> None:
    with raw.load_iter("task", 512) as program, attach_iter(program) as link:
        with pytest.raises(BpfError) as caught:
            link.read(limit=1024)
    assert caught.value.errno == errno.EFBIG


def test_an_iterator_for_one_task() -> None:
    target = attr.IterLinkTarget()
    target.task.tid = os.getpid()
    with raw.load_iter("task", 8) as program, attach_iter(program, target) as link:
        assert link.read() == bytes(16)  # the task, and the end of the walk


def test_an_iterator_for_a_task_that_does_not_exist() -> None:
    target = attr.IterLinkTarget()
    target.task.tid = 0x3FFF_FFFF
    with raw.load_iter("task") as program, attach_iter(program, target) as link:
        assert link.read() == bytes(8)  # the end of the walk, where the program is told of no task


def test_an_iterator_that_needs_a_target() -> None:
    with raw.load_iter("bpf_map_elem") as program, pytest.raises(AttachError) as caught:
        attach_iter(program)
    assert caught.value.errno in (errno.EINVAL, errno.EBADF)
    assert 'link_create of iterator "ct_test"' in caught.value.message


def test_a_program_that_is_no_iterator() -> None:
    with raw.load_undirected() as program, pytest.raises(AttachError, match="EINVAL: it is no iterator"):
        attach_iter(program)


def test_an_iterator_is_pinned_and_read_by_another(bpffs: Path) -> None:
    with raw.load_iter("task", 8) as program, attach_iter(program) as link:
        link.pin(bpffs / "tasks")
    with IterLink.open_pinned(bpffs / "tasks") as link:
        assert len(link.read()) >= 8
    assert len((bpffs / "tasks").read_bytes()) >= 8  # what pinning an iterator is for: cat


def test_update_of_an_iterator() -> None:
    with raw.load_iter("task", 8) as small, raw.load_iter("task", 16) as large, attach_iter(small) as link:
        link.update(large)
        assert link.program_id == large.info().id
        assert len(link.read()) % 16 == 0


def test_iter_create_refused() -> None:
    def read() -> list[object]:
        with pytest.raises(BpfError) as caught:
            link.read()
        return [caught.value.command, caught.value.errno]

    with raw.load_iter("task") as program, attach_iter(program) as link:
        refused = in_child(read, before=refuse_bpf(errno.EPERM, BpfCmd.BPF_ITER_CREATE))
    assert refused == ["BPF_ITER_CREATE", errno.EPERM]


def test_attaching_an_iterator_takes_no_perfmon() -> None:
    """Loading is what takes CAP_PERFMON."""

    def attach() -> str:
        with attach_iter(program) as link:
            return link.info().name

    with raw.load_iter("task") as program:
        assert in_child(attach, before=keep_capabilities(CAP_BPF)) == "task"
