"""The parts of attaching that need no kernel: parsing, and kernels this machine does not run."""

import ctypes
import errno
import os
from pathlib import Path

import pytest

from chadthrottle.bpf import attr, query
from chadthrottle.bpf.cgroupfs import Mount, _parse_mount, ancestors, filesystem_type, open_cgroup
from chadthrottle.bpf.constants import AttachFlag, AttachType, BpfCmd
from chadthrottle.bpf.errors import AttachError, BpfError
from chadthrottle.bpf.links import check_hook
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.query import AttachedProgram
from chadthrottle.bpf.syscall import failure
from chadthrottle.bpf.tcx_link import Anchor

EGRESS = AttachType.BPF_CGROUP_INET_EGRESS


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw",
            Mount(os.makedev(0, 38), "/", Path("/sys/fs/cgroup/unified"), "cgroup2", "cgroup2"),
        ),
        (
            "30 23 0:26 /a\\040b /mnt/x\\134y rw shared:4 master:2 - cgroup2 my\\040source rw,nsdelegate",
            Mount(os.makedev(0, 26), "/a b", Path("/mnt/x\\y"), "cgroup2", "my source"),
        ),
    ],
)
def test_a_line_of_mountinfo(line: str, expected: Mount) -> None:
    assert _parse_mount(line) == expected


def test_proc_is_found() -> None:
    fd = os.open("/proc/self", os.O_RDONLY)
    assert filesystem_type(fd) == "proc"
    os.close(fd)


def test_ancestors_end_at_the_mount() -> None:
    assert [str(path) for path in ancestors("/proc/sys/kernel")] == ["/proc/sys", "/proc"]


def test_ancestors_follow_symlinks(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/sys/kernel")
    assert [str(path) for path in ancestors(tmp_path / "link")] == ["/proc/sys", "/proc"]


def test_a_descriptor_keeps_its_path(tmp_path: Path) -> None:
    with open_cgroup(tmp_path) as outer, open_cgroup(outer.fd) as directory:
        assert (directory.path, directory.id) == (str(tmp_path), tmp_path.stat().st_ino)


@pytest.mark.parametrize(("name", "number"), [("missing", errno.ENOENT), ("file", errno.ENOTDIR)])
def test_a_path_that_is_no_directory(tmp_path: Path, name: str, number: int) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AttachError) as caught, open_cgroup(tmp_path / name):
        pass
    assert caught.value.errno == number
    assert str(tmp_path / name) in caught.value.message


def test_how_messages_name_a_program() -> None:
    assert str(AttachedProgram(41, "sd_devices", "")) == '"sd_devices" (id 41)'
    assert str(AttachedProgram(41, "", "")) == "with id 41"


@pytest.mark.parametrize(
    ("anchor", "flags"),
    [
        (Anchor(before=True), AttachFlag.BPF_F_BEFORE),
        (Anchor(before=False), AttachFlag.BPF_F_AFTER),
        (Anchor(before=False, program_id=7), AttachFlag.BPF_F_AFTER | AttachFlag.BPF_F_ID),
    ],
)
def test_anchors(anchor: Anchor, flags: AttachFlag) -> None:
    assert anchor.flags == flags


def test_an_attach_type_newer_than_ours_has_a_number() -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    with Program(fd, "count", 8, EGRESS) as program, pytest.raises(AttachError, match="as attach type 9999"):
        check_hook("link_update", program, 9999)


@pytest.mark.parametrize("refusal", [errno.E2BIG, errno.EINVAL])
def test_query_of_a_kernel_without_flags_per_program(monkeypatch: pytest.MonkeyPatch, refusal: int) -> None:
    """Before 6.0; no such kernel boots here within a test."""

    def old_kernel(command: BpfCmd, request: attr.ProgQuery) -> tuple[int, int]:
        assert command == BpfCmd.BPF_PROG_QUERY
        if request.prog_attach_flags:
            return -1, refusal
        request.prog_cnt = 1
        request.attach_flags = AttachFlag.BPF_F_ALLOW_MULTI
        ctypes.c_uint32.from_address(request.prog_ids).value = 0x7FFF_FFFF  # no program has this id
        return 0, 0

    def nobody(_: int) -> None:
        raise failure("BPF_PROG_GET_FD_BY_ID", errno.ENOENT)

    monkeypatch.setattr(query, "bpf_errno", old_kernel)
    monkeypatch.setattr(query, "_borrowed", nobody)
    found = query.query_cgroup(3, EGRESS)
    assert found.flags == AttachFlag.BPF_F_ALLOW_MULTI
    assert found.programs == (AttachedProgram(0x7FFF_FFFF, "", "", None),)


def test_query_refused_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "bpf_errno", lambda *_: (-1, errno.EINVAL))
    with pytest.raises(BpfError) as caught:
        query.query_cgroup(3, EGRESS)
    assert caught.value.errno == errno.EINVAL


def test_structures_have_the_kernels_sizes() -> None:
    """offsetofend() of the last field of each, in include/uapi/linux/bpf.h."""
    sizes = {attr.LinkCreate: 32, attr.TcxLinkCreate: 32, attr.ProgQuery: 64, attr.RawTracepointOpen: 16}
    assert {each: ctypes.sizeof(each) for each in sizes} == sizes
    assert attr.LinkInfo.detail.offset == 16
