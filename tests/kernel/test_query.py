"""BPF_PROG_QUERY: what is attached, and what runs."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chadthrottle.bpf.cgroup_link import attach_cgroup
from chadthrottle.bpf.constants import AttachFlag, AttachType, BpfCmd
from chadthrottle.bpf.errors import BpfError
from chadthrottle.bpf.query import AttachedProgram, program_ids, query_cgroup, query_tcx
from chadthrottle.bpf.syscall import CAP_BPF, CAP_NET_ADMIN
from tests.support import raw_programs as raw
from tests.support.children import in_child, keep_capabilities
from tests.support.network import Endpoint

INGRESS = AttachType.BPF_CGROUP_INET_INGRESS
EGRESS = AttachType.BPF_CGROUP_INET_EGRESS


@pytest.fixture
def cgroup_fd(leaf_cgroup: Path) -> Iterator[int]:
    fd = os.open(leaf_cgroup, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_nothing_attached(cgroup_fd: int) -> None:
    found = query_cgroup(cgroup_fd, EGRESS)
    assert (found.attach_type, found.flags, found.programs) == (EGRESS, 0, ())


def test_programs_in_the_order_they_run(cgroup_fd: int) -> None:
    with raw.load_for(EGRESS, "one") as one, raw.load_for(EGRESS, "two", 0) as two:
        with attach_cgroup(one, cgroup_fd), attach_cgroup(two, cgroup_fd, method="legacy"):
            found = query_cgroup(cgroup_fd, EGRESS)
            multi = AttachFlag.BPF_F_ALLOW_MULTI
            assert found.flags == multi
            assert found.programs == tuple(
                AttachedProgram(program.info().id, program.name, program.info().tag, multi) for program in (one, two)
            )
            assert query_cgroup(cgroup_fd, INGRESS).programs == ()


def test_the_effective_list_has_the_ancestors_too(cgroup_fd: int, leaf_cgroup: Path) -> None:
    child = leaf_cgroup / "child"
    child.mkdir()
    child_fd = os.open(child, os.O_RDONLY | os.O_DIRECTORY)
    with raw.load_for(EGRESS) as above, raw.load_for(EGRESS) as below:
        with attach_cgroup(above, leaf_cgroup), attach_cgroup(below, child):
            expected = (below.info().id, above.info().id)
            found = query_cgroup(child_fd, EGRESS, effective=True)
            assert tuple(program.id for program in found.programs) == expected
            assert [program.flags for program in found.programs] == [None, None]
            assert program_ids(child_fd, EGRESS, effective=True) == expected
            assert program_ids(child_fd, EGRESS) == expected[:1]
            assert program_ids(cgroup_fd, EGRESS, effective=True) == expected[1:]
    os.close(child_fd)


def test_an_effective_list_longer_than_the_first_guess(leaf_cgroup: Path) -> None:
    cgroups = [leaf_cgroup, leaf_cgroup / "a", leaf_cgroup / "a" / "b"]
    expected = []
    with ExitStack() as stack:
        for cgroup in cgroups:
            cgroup.mkdir(exist_ok=True)
            for _ in range(50):
                program = stack.enter_context(raw.load_for(EGRESS))
                stack.enter_context(attach_cgroup(program, cgroup))
                expected.append(program.info().id)
        fd = os.open(cgroups[-1], os.O_RDONLY | os.O_DIRECTORY)
        assert sorted(program_ids(fd, EGRESS, effective=True)) == sorted(expected)
        os.close(fd)


def test_names_take_sys_admin_and_ids_do_not(cgroup_fd: int) -> None:
    with raw.load_for(EGRESS, "secret") as program, attach_cgroup(program, cgroup_fd):
        text = in_child(
            lambda: str(query_cgroup(cgroup_fd, EGRESS).programs[0]),
            before=keep_capabilities(CAP_BPF, CAP_NET_ADMIN),
        )
        assert text == f"with id {program.info().id}"
        assert str(query_cgroup(cgroup_fd, EGRESS).programs[0]) == f'"secret" (id {program.info().id})'


def test_no_capability(cgroup_fd: int) -> None:
    def query() -> list[object]:
        with pytest.raises(BpfError) as caught:
            query_cgroup(cgroup_fd, EGRESS)
        return [caught.value.errno, caught.value.exit_code]

    assert in_child(query, before=keep_capabilities()) == [errno.EPERM, 3]


def test_no_cgroup_hook(cgroup_fd: int) -> None:
    with pytest.raises(BpfError) as caught:
        query_cgroup(cgroup_fd, AttachType.BPF_TRACE_ITER)
    assert (caught.value.command, caught.value.errno) == (BpfCmd.BPF_PROG_QUERY.name, errno.EINVAL)


def test_no_cgroup(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(BpfError) as caught:
        query_cgroup(fd, EGRESS)
    os.close(fd)
    assert caught.value.errno == errno.EBADF


@pytest.mark.usefixtures("tcx")
def test_tcx_of_a_device_without_programs(netns_pair: tuple[Endpoint, Endpoint]) -> None:
    near = netns_pair[0]
    with near.entered():
        assert query_tcx(near.ifindex, AttachType.BPF_TCX_EGRESS).programs == ()


@pytest.mark.usefixtures("tcx")
def test_tcx_of_no_device(netns_pair: tuple[Endpoint, Endpoint]) -> None:
    with netns_pair[0].entered(), pytest.raises(BpfError) as caught:
        query_tcx(4242, AttachType.BPF_TCX_EGRESS)
    assert caught.value.errno == errno.ENODEV
