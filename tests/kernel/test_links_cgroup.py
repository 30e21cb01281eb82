"""Attaching to cgroups, by link and without: what works, what is refused, and what is said then."""

import errno
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from chadthrottle.bpf import attr, cgroup_link
from chadthrottle.bpf.cgroup_legacy import LegacyCgroupLink
from chadthrottle.bpf.cgroup_link import AttachMethod, attach_cgroup, has_links
from chadthrottle.bpf.constants import AttachFlag, AttachType, BpfCmd, LinkType
from chadthrottle.bpf.errors import AttachError, BpfError, NotSupportedError
from chadthrottle.bpf.links import Link, links_of_program
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.query import program_ids
from chadthrottle.bpf.syscall import CAP_BPF, CAP_NET_ADMIN, bpf, bpf_errno
from tests.support import raw_programs as raw
from tests.support.cgroups import remove_cgroup
from tests.support.children import in_child, keep_capabilities, kernel_without_links, refuse_bpf

INGRESS = AttachType.BPF_CGROUP_INET_INGRESS
EGRESS = AttachType.BPF_CGROUP_INET_EGRESS

METHODS: tuple[AttachMethod, ...] = ("link", "legacy")


def attached(cgroup: Path, hook: AttachType = EGRESS) -> tuple[int, ...]:
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return program_ids(fd, hook)
    finally:
        os.close(fd)


@contextmanager
def foreign(program: Program, cgroup: Path, flags: int, hook: AttachType = EGRESS) -> Iterator[None]:
    """Somebody else's legacy attachment with flags of its own: 0 is exclusive."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    request = attr.ProgAttach(target_fd=fd, attach_bpf_fd=program.fd, attach_type=hook)
    try:
        request.attach_flags = flags
        bpf(BpfCmd.BPF_PROG_ATTACH, request)
        request.attach_flags = 0
        try:
            yield
        finally:
            bpf(BpfCmd.BPF_PROG_DETACH, request)
    finally:
        os.close(fd)


def child_of(cgroup: Path) -> Path:
    path = cgroup / "child"
    path.mkdir()
    return path


def error_of(action: Callable[[], Link]) -> dict[str, Any]:
    """An AttachError's parts, as a child process can hand them over."""
    with pytest.raises(AttachError) as caught:
        action()
    error = caught.value
    return {
        "errno": error.errno,
        "command": error.command,
        "message": error.message,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }


# What works


def test_a_link_tells_what_it_is(leaf_cgroup: Path) -> None:
    with raw.load_for(EGRESS) as program, attach_cgroup(program, leaf_cgroup) as link:
        info = link.info()
        assert type(link) is Link
        assert info.type == LinkType.BPF_LINK_TYPE_CGROUP
        assert info.id == link.id > 0
        assert info.program_id == link.program_id == program.info().id
        assert (info.attach_type, info.cgroup_id) == (EGRESS, leaf_cgroup.stat().st_ino)
        assert [each.id for each in links_of_program(info.program_id)] == [info.id]
        with Link.by_id(info.id) as same:
            assert same.info() == info


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("hook", [hook for hook in raw.HOOK_TYPES if "CGROUP" in hook.name])
def test_leaving_the_block_detaches(leaf_cgroup: Path, hook: AttachType, method: AttachMethod) -> None:
    with raw.load_for(hook) as program:
        with attach_cgroup(program, leaf_cgroup, method=method) as link:
            assert attached(leaf_cgroup, hook) == (program.info().id,)
            assert link.info().cgroup_id == leaf_cgroup.stat().st_ino
        assert attached(leaf_cgroup, hook) == ()


@pytest.mark.parametrize("method", METHODS)
def test_detach_while_others_stay(leaf_cgroup: Path, method: AttachMethod) -> None:
    with raw.load_for(EGRESS) as program, raw.load_for(EGRESS) as other, attach_cgroup(other, leaf_cgroup):
        link = attach_cgroup(program, leaf_cgroup, method=method)
        link.detach()
        assert link.closed
        assert attached(leaf_cgroup) == (other.info().id,)


@pytest.mark.parametrize("method", METHODS)
def test_the_program_really_runs(leaf_cgroup: Path, method: AttachMethod) -> None:
    """A program that returns 0 at connect() refuses it to the processes of this cgroup alone."""

    def connect() -> int:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", 9))

    def connect_inside() -> int:
        (leaf_cgroup / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        return connect()

    hook = AttachType.BPF_CGROUP_INET4_CONNECT
    with raw.load_for(hook, result=0) as program, attach_cgroup(program, leaf_cgroup, method=method):
        assert in_child(connect_inside) == errno.EPERM
        assert connect() == errno.ECONNREFUSED
    assert in_child(connect_inside) == errno.ECONNREFUSED


def test_a_descriptor_serves_as_well_and_stays_open(leaf_cgroup: Path) -> None:
    fd = os.open(leaf_cgroup, os.O_RDONLY | os.O_DIRECTORY)
    with raw.load_for(EGRESS) as program:
        attach_cgroup(program, fd).detach()
    os.close(fd)


@pytest.mark.parametrize("method", METHODS)
def test_update_replaces_the_program(leaf_cgroup: Path, method: AttachMethod) -> None:
    with raw.load_for(EGRESS) as first, raw.load_for(EGRESS) as second:
        with attach_cgroup(first, leaf_cgroup, method=method) as link:
            link.update(second)
            assert link.program_id == second.info().id
            assert attached(leaf_cgroup) == (second.info().id,)
        assert attached(leaf_cgroup) == ()


@pytest.mark.parametrize("method", METHODS)
def test_update_refuses_a_program_for_another_hook(leaf_cgroup: Path, method: AttachMethod) -> None:
    """The kernel would take it: on 6.18 an ingress program may replace an egress one."""
    with raw.load_for(EGRESS) as program, raw.load_for(INGRESS) as other:
        with attach_cgroup(program, leaf_cgroup, method=method) as link:
            with pytest.raises(AttachError, match="was loaded for BPF_CGROUP_INET_INGRESS"):
                link.update(other)
            assert attached(leaf_cgroup) == (program.info().id,)


def test_update_refuses_a_program_of_another_type(leaf_cgroup: Path) -> None:
    with (
        raw.load_for(EGRESS) as program,
        raw.load_raw_tp("sched_process_exit") as other,
        attach_cgroup(program, leaf_cgroup) as link,
    ):
        with pytest.raises(BpfError) as caught:
            link.update(other)
        assert caught.value.errno == errno.EINVAL
        assert link.program_id == program.info().id


def test_a_pinned_link_outlives_its_object(leaf_cgroup: Path, bpffs: Path) -> None:
    with raw.load_for(EGRESS) as program:
        with attach_cgroup(program, leaf_cgroup) as link:
            link.pin(bpffs / "link")
        assert attached(leaf_cgroup) == (program.info().id,)
        reopened = Link.open_pinned(bpffs / "link")
        assert reopened.program_id == program.info().id
        reopened.detach()
        assert not (bpffs / "link").exists()
        assert attached(leaf_cgroup) == ()


def test_detach_leaves_a_dead_link_to_whoever_else_holds_it(leaf_cgroup: Path) -> None:
    with raw.load_for(EGRESS) as program, attach_cgroup(program, leaf_cgroup) as link:
        with Link.by_id(link.id) as other:
            other.detach()
        assert link.info().cgroup_id == 0
        assert attached(leaf_cgroup) == ()


def test_a_pinned_program_is_no_link(bpffs: Path) -> None:
    with raw.load_for(EGRESS) as program:
        program.pin(bpffs / "program")
        with pytest.raises(BpfError, match="not a link but bpf-prog"):
            Link.open_pinned(bpffs / "program")


def test_a_legacy_attachment_is_handed_over_by_its_pin(leaf_cgroup: Path, bpffs: Path) -> None:
    with raw.load_for(EGRESS) as program, attach_cgroup(program, leaf_cgroup, method="legacy") as link:
        link.pin(bpffs / "program")
    with Program.open_pinned(bpffs / "program") as program:
        assert attached(leaf_cgroup) == (program.info().id,)
        with LegacyCgroupLink.adopt(program, leaf_cgroup, EGRESS) as link:
            assert link.info().program_id == program.info().id
        assert attached(leaf_cgroup) == ()
        with pytest.raises(AttachError, match="is not attached to"):
            LegacyCgroupLink.adopt(program, leaf_cgroup, EGRESS)


def test_an_adopted_legacy_attachment_is_as_pinned_as_before(leaf_cgroup: Path, bpffs: Path) -> None:
    path = bpffs / "program"
    with raw.load_for(EGRESS) as program, attach_cgroup(program, leaf_cgroup, method="legacy") as link:
        link.pin(path)
    with Program.open_pinned(path) as program:
        LegacyCgroupLink.adopt(program, leaf_cgroup, EGRESS, pinned_at=path).close()
        assert attached(leaf_cgroup) == (program.info().id,)
        LegacyCgroupLink.adopt(program, leaf_cgroup, EGRESS, pinned_at=path).detach()
    assert attached(leaf_cgroup) == ()
    assert not path.exists()


def test_an_update_takes_the_pin_along(leaf_cgroup: Path, bpffs: Path) -> None:
    path = bpffs / "program"
    with raw.load_for(EGRESS) as one, raw.load_for(EGRESS) as two, raw.load_for(INGRESS) as other:
        link = attach_cgroup(one, leaf_cgroup, method="legacy")
        link.pin(path)
        link.update(two)
        with Program.open_pinned(path) as pinned:
            assert pinned.info().id == two.info().id
        with pytest.raises(AttachError):
            link.update(other)
        assert not (bpffs / "program_new").exists()
        with attach_cgroup(one, leaf_cgroup, method="legacy"):
            with pytest.raises(AttachError, match="EEXIST"):
                link.update(one)
            assert not (bpffs / "program_new").exists()
        link.detach()
    assert attached(leaf_cgroup) == ()


def test_a_legacy_attachment_survives_its_creator(leaf_cgroup: Path) -> None:
    with raw.load_for(EGRESS) as program:

        def attach_and_die() -> int:
            link = attach_cgroup(program, leaf_cgroup, method="legacy")
            return link.program_id

        assert attached(leaf_cgroup) == ()
        assert in_child(attach_and_die) == program.info().id
        assert attached(leaf_cgroup) == (program.info().id,)
        LegacyCgroupLink.adopt(program, leaf_cgroup, EGRESS).detach()
        assert attached(leaf_cgroup) == ()


def test_links_die_with_their_creator(leaf_cgroup: Path) -> None:
    with raw.load_for(EGRESS) as program:
        assert in_child(lambda: attach_cgroup(program, leaf_cgroup).program_id) == program.info().id
        assert attached(leaf_cgroup) == ()


def test_legacy_detach_twice_is_no_error(leaf_cgroup: Path) -> None:
    with raw.load_for(EGRESS) as program, attach_cgroup(program, leaf_cgroup, method="legacy") as link:
        LegacyCgroupLink.adopt(program, leaf_cgroup, EGRESS).detach()
        assert link.info().cgroup_id == 0


def test_an_unpin_leaves_the_attachment_to_the_descriptor(leaf_cgroup: Path, bpffs: Path) -> None:
    with raw.load_for(EGRESS) as program, attach_cgroup(program, leaf_cgroup) as link:
        link.pin(bpffs / "link")
        link.unpin()
        assert attached(leaf_cgroup) == (program.info().id,)


def test_legacy_update_to_what_is_attached_already(leaf_cgroup: Path) -> None:
    with raw.load_for(EGRESS) as one, raw.load_for(EGRESS) as two:
        with (
            attach_cgroup(one, leaf_cgroup, method="legacy") as link,
            attach_cgroup(two, leaf_cgroup, method="legacy"),
        ):
            with pytest.raises(AttachError, match="is attached to this cgroup already"):
                link.update(two)
            assert link.program_id == one.info().id
            link.update(one)
            assert sorted(attached(leaf_cgroup)) == sorted([one.info().id, two.info().id])


def test_a_legacy_attachment_has_neither_id_nor_pin_of_its_own(bpffs: Path) -> None:
    with pytest.raises(TypeError, match="adopt"):
        LegacyCgroupLink.by_id(1)
    with pytest.raises(TypeError, match="adopt"):
        LegacyCgroupLink.open_pinned(bpffs / "program")


# Kernels without links


def test_this_kernel_has_links() -> None:
    assert has_links()


def test_without_links_auto_takes_the_legacy_way(leaf_cgroup: Path) -> None:
    with raw.load_for(EGRESS) as program:

        def attach() -> list[Any]:
            with attach_cgroup(program, leaf_cgroup) as link:
                return [has_links(), type(link).__name__, attached(leaf_cgroup)]

        found = in_child(attach, before=kernel_without_links())
        assert found == [False, "LegacyCgroupLink", [program.info().id]]
        assert attached(leaf_cgroup) == ()


def test_without_links_link_says_what_is_missing(leaf_cgroup: Path) -> None:
    with raw.load_for(EGRESS) as program:

        def attach() -> list[Any]:
            with pytest.raises(NotSupportedError) as caught:
                attach_cgroup(program, leaf_cgroup, method="link")
            return [caught.value.since, str(caught.value)]

        since, text = in_child(attach, before=kernel_without_links())
        assert since == "5.7"
        assert "legacy" in text


def test_einval_of_a_kernel_with_links_is_no_reason_to_fall_back(leaf_cgroup: Path) -> None:
    with raw.load_raw_tp("sched_process_exit") as program:
        error = error_of(lambda: attach_cgroup(program, leaf_cgroup, EGRESS))
    assert (error["errno"], error["command"]) == (errno.EINVAL, "BPF_LINK_CREATE")
    assert "cannot be attached as BPF_CGROUP_INET_EGRESS" in error["message"]


@pytest.mark.parametrize("flags", [AttachFlag.BPF_F_ALLOW_OVERRIDE, AttachFlag.BPF_F_ALLOW_MULTI])
def test_the_flags_of_the_legacy_way_are_einval_for_links(leaf_cgroup: Path, flags: AttachFlag) -> None:
    """The customer's EINVAL: a library that passed BPF_F_ALLOW_MULTI to BPF_LINK_CREATE."""
    fd = os.open(leaf_cgroup, os.O_RDONLY | os.O_DIRECTORY)
    with raw.load_for(EGRESS) as program:
        request = attr.LinkCreate(prog_fd=program.fd, target_fd=fd, attach_type=EGRESS, flags=flags)
        assert bpf_errno(BpfCmd.BPF_LINK_CREATE, request) == (-1, errno.EINVAL)
    os.close(fd)


# Refused by us: the kernel would take it


def test_not_against_its_direction(leaf_cgroup: Path) -> None:
    with raw.load_for(EGRESS, name="count") as program:
        error = error_of(lambda: attach_cgroup(program, leaf_cgroup, INGRESS))
        assert error["errno"] == errno.EINVAL
        assert error["message"] == (
            f'link_create on {leaf_cgroup}: program "count" was loaded for BPF_CGROUP_INET_EGRESS, '
            "it must not run as BPF_CGROUP_INET_INGRESS"
        )
    assert attached(leaf_cgroup, INGRESS) == ()


def test_a_program_without_direction_needs_one(leaf_cgroup: Path) -> None:
    with raw.load_undirected() as program:
        assert "say which attach type" in error_of(lambda: attach_cgroup(program, leaf_cgroup))["message"]
        for hook in (INGRESS, EGRESS):
            with attach_cgroup(program, leaf_cgroup, hook) as link:
                assert link.info().attach_type == hook


@pytest.mark.parametrize("first", METHODS)
@pytest.mark.parametrize("second", METHODS)
def test_no_program_twice(leaf_cgroup: Path, first: AttachMethod, second: AttachMethod) -> None:
    with raw.load_for(EGRESS, name="count") as program, attach_cgroup(program, leaf_cgroup, method=first):
        error = error_of(lambda: attach_cgroup(program, leaf_cgroup, method=second))
        assert error["errno"] == errno.EEXIST
        number = program.info().id
        assert f'EEXIST: program "count" (id {number}) is attached to this cgroup already as' in error["message"]
        assert attached(leaf_cgroup) == (number,)


def test_no_program_in_a_cgroup_and_above(leaf_cgroup: Path) -> None:
    child = child_of(leaf_cgroup)
    with raw.load_for(EGRESS) as program, attach_cgroup(program, leaf_cgroup):
        error = error_of(lambda: attach_cgroup(program, child))
        assert error["errno"] == errno.EEXIST
        assert f"attached to ancestor {leaf_cgroup} and so runs here already as" in error["message"]


def test_the_same_code_loaded_twice_is_two_programs(leaf_cgroup: Path) -> None:
    with raw.load_for(EGRESS) as one, raw.load_for(EGRESS) as two:
        assert one.info().tag == two.info().tag
        with attach_cgroup(one, leaf_cgroup), attach_cgroup(two, leaf_cgroup):
            assert len(attached(leaf_cgroup)) == 2


def test_a_method_that_does_not_exist(leaf_cgroup: Path) -> None:
    with raw.load_for(EGRESS) as program, pytest.raises(ValueError, match="auto, link, legacy"):
        attach_cgroup(program, leaf_cgroup, method="both")  # type: ignore[arg-type] # that is the point


# Refused by the kernel


@pytest.mark.parametrize("method", METHODS)
def test_exclusive_program_on_an_ancestor(leaf_cgroup: Path, method: AttachMethod) -> None:
    middle = child_of(leaf_cgroup)
    target = child_of(middle)
    with raw.load_for(EGRESS, name="sd_devices") as other, foreign(other, leaf_cgroup, 0):
        with raw.load_for(EGRESS) as program:
            error = error_of(lambda: attach_cgroup(program, target, method=method))
        number = other.info().id
    verb = "link_create" if method == "link" else "prog_attach"
    expected = (
        f'{verb} on {target}: EPERM: an exclusive program "sd_devices" (id {number}) sits on ancestor {leaf_cgroup}'
    )
    assert error["message"] == expected
    assert f"bpftool cgroup detach {leaf_cgroup} cgroup_inet_egress id {number}" in error["hint"]
    assert (error["errno"], error["exit_code"]) == (errno.EPERM, 5)
    assert attached(target) == ()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("flags", "kind"), [(0, "an exclusive"), (1, "an override")])
def test_program_on_the_cgroup_itself(leaf_cgroup: Path, flags: int, kind: str, method: AttachMethod) -> None:
    with raw.load_for(EGRESS, name="theirs") as other, foreign(other, leaf_cgroup, flags):
        with raw.load_for(EGRESS) as program:
            error = error_of(lambda: attach_cgroup(program, leaf_cgroup, method=method))
        assert f'EPERM: {kind} program "theirs" (id {other.info().id}) sits on this cgroup' in error["message"]
        assert attached(leaf_cgroup) == (other.info().id,)


def test_an_override_program_above_is_no_obstacle(leaf_cgroup: Path) -> None:
    """hierarchy_allows_attach(): BPF_F_ALLOW_OVERRIDE means just that. Ours runs instead of it."""
    child = child_of(leaf_cgroup)
    with raw.load_for(EGRESS) as other, foreign(other, leaf_cgroup, AttachFlag.BPF_F_ALLOW_OVERRIDE):
        with raw.load_for(EGRESS) as program, attach_cgroup(program, child):
            assert attached(child) == (program.info().id,)


def test_exclusive_program_above_what_a_container_sees(leaf_cgroup: Path, tmp_path: Path) -> None:
    inside = child_of(leaf_cgroup)
    target = child_of(inside)
    view = tmp_path / "cgroup"
    view.mkdir()
    with raw.load_for(EGRESS) as other, foreign(other, leaf_cgroup, 0), raw.load_for(EGRESS) as program:
        subprocess.run(["mount", "--bind", inside, view], check=True)
        try:
            error = error_of(lambda: attach_cgroup(program, view / target.name))
        finally:
            subprocess.run(["umount", view], check=True)
    assert error["errno"] == errno.EPERM
    assert "above the cgroups this container shows" in error["hint"]


def test_exclusive_for_another_hook_is_no_obstacle(leaf_cgroup: Path) -> None:
    with raw.load_for(INGRESS) as other, foreign(other, leaf_cgroup, 0, INGRESS):
        with raw.load_for(EGRESS) as program:
            attach_cgroup(program, leaf_cgroup).detach()


@pytest.mark.parametrize("method", METHODS)
def test_the_65th_program(leaf_cgroup: Path, method: AttachMethod) -> None:
    with ExitStack() as stack:
        for _ in range(64):
            program = stack.enter_context(raw.load_for(EGRESS))
            stack.enter_context(attach_cgroup(program, leaf_cgroup, method=method))
        program = stack.enter_context(raw.load_for(EGRESS))
        error = error_of(lambda: attach_cgroup(program, leaf_cgroup, method=method))
        assert error["errno"] == errno.E2BIG
        assert "E2BIG: 64 programs are attached for BPF_CGROUP_INET_EGRESS" in error["message"]
        assert str(leaf_cgroup) in error["hint"]


@pytest.fixture
def cgroup_v1(tmp_path: Path) -> Iterator[Path]:
    """A hierarchy of the test's own, without controllers; it ends with its mount."""
    # A name of its own each time: a hierarchy takes a moment to end, and is busy until then.
    options = f"none,name=ct-test-{os.getpid()}-{time.monotonic_ns()}"
    subprocess.run(["mount", "-t", "cgroup", "-o", options, "ct-test", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("method", METHODS)
def test_a_cgroup_v1_directory(method: AttachMethod, cgroup_v1: Path) -> None:
    with raw.load_for(EGRESS) as program:
        error = error_of(lambda: attach_cgroup(program, cgroup_v1, method=method))
    assert error["errno"] == errno.EBADF
    assert "EBADF: this is a cgroup v1 directory; BPF programs attach to cgroup2 only" in error["message"]
    assert "/proc/self/mountinfo" in error["hint"]


def test_a_directory_that_is_no_cgroup(tmp_path: Path) -> None:
    with raw.load_for(EGRESS) as program:
        error = error_of(lambda: attach_cgroup(program, tmp_path))
    assert error["errno"] == errno.EBADF
    assert f"prog_query on {tmp_path}: EBADF: this is no cgroup but lies on " in error["message"]


def test_a_file(leaf_cgroup: Path) -> None:
    path = leaf_cgroup / "cgroup.procs"
    with raw.load_for(EGRESS) as program, path.open(encoding="ascii") as file:
        by_path = error_of(lambda: attach_cgroup(program, path))
        by_descriptor = error_of(lambda: attach_cgroup(program, file.fileno()))
    assert by_path["message"] == f"open of cgroup {path}: ENOTDIR: this is a file; a cgroup is a directory"
    assert by_descriptor["errno"] == errno.EBADF
    assert f"on {path}: EBADF: this is a file of a cgroup" in by_descriptor["message"]


def test_a_descriptor_that_is_not_open() -> None:
    with raw.load_for(EGRESS) as program:
        assert "EBADF: this descriptor is not open" in error_of(lambda: attach_cgroup(program, 999))["message"]


def test_a_cgroup_that_is_gone(leaf_cgroup: Path) -> None:
    child = child_of(leaf_cgroup)
    fd = os.open(child, os.O_RDONLY | os.O_DIRECTORY)
    child.rmdir()
    with raw.load_for(EGRESS) as program:
        by_path = error_of(lambda: attach_cgroup(program, child))
        by_descriptor = error_of(lambda: attach_cgroup(program, fd))
    os.close(fd)
    assert by_path["message"] == f"open of cgroup {child}: ENOENT: there is no such cgroup: never made, or removed"
    assert by_descriptor["errno"] == errno.ENOENT
    assert f"prog_query on {child} (deleted): ENOENT: the cgroup has been removed" in by_descriptor["message"]


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_a_cgroup_removed_under_a_link(leaf_cgroup: Path) -> None:
    child = child_of(leaf_cgroup)
    with raw.load_for(EGRESS) as program, raw.load_for(EGRESS) as other, attach_cgroup(program, child) as link:
        remove_cgroup(child)
        wait_until(lambda: link.info().cgroup_id == 0)  # the kernel lets go in a worker
        assert link.program_id == program.info().id
        with pytest.raises(BpfError) as caught:
            link.update(other)
        assert caught.value.errno == errno.ENOLINK
        link.detach()


def test_a_cgroup_removed_under_a_legacy_attachment(leaf_cgroup: Path) -> None:
    child = child_of(leaf_cgroup)
    with raw.load_for(EGRESS) as program, attach_cgroup(program, child, method="legacy") as link:
        remove_cgroup(child)
        wait_until(lambda: link.info().cgroup_id == 0)
        link.detach()


def test_legacy_detach_of_what_a_link_holds(leaf_cgroup: Path) -> None:
    with raw.load_for(EGRESS) as program, attach_cgroup(program, leaf_cgroup) as link:
        stranger = LegacyCgroupLink.adopt(program, leaf_cgroup, EGRESS)
        with pytest.raises(AttachError) as caught:
            stranger.detach()
        expected = f"prog_detach on {leaf_cgroup}: ENOENT: link {link.id} holds program {program.info().id}"
        assert caught.value.message.startswith(expected)
        assert attached(leaf_cgroup) == (program.info().id,)
        with pytest.raises(AttachError):
            stranger.close()
        assert stranger.closed


# Privileges


def test_without_capabilities(leaf_cgroup: Path) -> None:
    with raw.load_for(EGRESS) as program:
        error = in_child(lambda: error_of(lambda: attach_cgroup(program, leaf_cgroup)), before=keep_capabilities())
    assert (error["errno"], error["exit_code"]) == (errno.EPERM, 3)
    assert "CAP_BPF, CAP_NET_ADMIN" in error["hint"]
    assert "sudo" in error["hint"]


@pytest.mark.parametrize("method", METHODS)
def test_two_capabilities_are_enough(leaf_cgroup: Path, method: AttachMethod) -> None:
    """CAP_BPF and CAP_NET_ADMIN, without CAP_SYS_ADMIN."""

    def attach() -> tuple[int, ...]:
        with attach_cgroup(program, leaf_cgroup, method=method):
            return attached(leaf_cgroup)

    with raw.load_for(EGRESS) as program:
        assert in_child(attach, before=keep_capabilities(CAP_BPF, CAP_NET_ADMIN)) == [program.info().id]


def test_an_exclusive_program_is_found_without_sys_admin(leaf_cgroup: Path) -> None:
    """Its name takes CAP_SYS_ADMIN, its id does not."""
    child = child_of(leaf_cgroup)
    with raw.load_for(EGRESS) as other, foreign(other, leaf_cgroup, 0), raw.load_for(EGRESS) as program:
        error = in_child(
            lambda: error_of(lambda: attach_cgroup(program, child)),
            before=keep_capabilities(CAP_BPF, CAP_NET_ADMIN),
        )
        assert f"EPERM: an exclusive program with id {other.info().id} sits on ancestor" in error["message"]
    assert error["exit_code"] == 5


def test_bpf_forbidden_by_seccomp(leaf_cgroup: Path) -> None:
    """EPERM with every capability there is and no exclusive program anywhere."""
    with raw.load_for(EGRESS) as program:
        error = in_child(
            lambda: error_of(lambda: attach_cgroup(program, leaf_cgroup)),
            before=refuse_bpf(errno.EPERM, BpfCmd.BPF_LINK_CREATE),
        )
    assert "no exclusive program for BPF_CGROUP_INET_EGRESS is in sight" in error["message"]
    assert "seccomp" in error["hint"]
    assert error["exit_code"] == 5


def test_no_bpf_at_all(leaf_cgroup: Path) -> None:
    with raw.load_for(EGRESS) as program:
        error = in_child(lambda: error_of(lambda: attach_cgroup(program, leaf_cgroup)), before=refuse_bpf(errno.ENOSYS))
    assert error["errno"] == errno.ENOSYS
    assert "CONFIG_BPF_SYSCALL" in error["hint"]


# Read back: the only injected failures, since the kernel does not lie on request


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("failure", [OSError("injected"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_what_cannot_be_read_back_is_detached(
    leaf_cgroup: Path, monkeypatch: pytest.MonkeyPatch, method: AttachMethod, failure: BaseException
) -> None:
    seen: list[tuple[int, ...]] = []

    def fail(*_: object) -> None:
        seen.append(attached(leaf_cgroup))
        raise failure

    monkeypatch.setattr(cgroup_link, "_read_back", fail)
    with raw.load_for(EGRESS) as program:
        with pytest.raises(type(failure)):
            attach_cgroup(program, leaf_cgroup, method=method)
        assert seen == [(program.info().id,)]
        assert attached(leaf_cgroup) == ()
        assert list(links_of_program(program.info().id)) == []


@pytest.mark.parametrize("method", METHODS)
def test_a_race_for_the_same_hook_leaves_the_first(
    leaf_cgroup: Path, monkeypatch: pytest.MonkeyPatch, method: AttachMethod
) -> None:
    """Somebody attaches the program between our question and our attachment."""
    with raw.load_for(EGRESS) as program, ExitStack() as stack:

        def race(*_: object) -> None:
            monkeypatch.undo()
            stack.enter_context(attach_cgroup(program, leaf_cgroup, method="link"))

        monkeypatch.setattr(cgroup_link, "_refuse_second", race)
        error = error_of(lambda: attach_cgroup(program, leaf_cgroup, method=method))
        assert f"program {program.info().id} is there 2 times; detached again" in error["message"]
        assert attached(leaf_cgroup) == (program.info().id,)
