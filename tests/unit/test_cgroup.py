"""cgroup2 paths, as text."""

from pathlib import Path

import pytest

from chadthrottle.bpf.cgroupfs import Mount
from chadthrottle.cgroup import _directory, parse_membership


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/\n", "/"),
        ("0::/user.slice/a b:c\n", "/user.slice/a b:c"),
        # hybrid: every v1 hierarchy has a line, and may be named anything
        ("9:name=systemd:/x\n4:memory:/0::/y\n0::/z\n", "/z"),
        ("10::/ten\n0::/zero\n", "/zero"),
        ("0::/gone (deleted)\n", "/gone (deleted)"),
        ("0::/../x\n", "/../x"),
        ("0::/carriage\rreturn\n", "/carriage\rreturn"),
        ("4:memory:/\n", None),
        ("", None),
    ],
)
def test_the_unified_line(text: str, path: str | None) -> None:
    assert parse_membership(text) == path


@pytest.mark.parametrize(
    ("root", "inside", "directory"),
    [
        ("/", "/", "/cg"),
        ("/", "/a/b", "/cg/a/b"),
        ("/a", "/a/b", "/cg/b"),
        ("/a", "/a", "/cg"),
        # another tree; not a matter of letters
        ("/a", "/ab", None),
        ("/a", "/b", None),
        # above the reader's namespace: no text says what is there
        ("/", "/../x", None),
        ("/..", "/a", None),
        ("/..", "/../x", None),
    ],
)
def test_a_path_below_a_mount(root: str, inside: str, directory: str | None) -> None:
    mount = Mount(device=1, root=root, mount_point=Path("/cg"), filesystem="cgroup2", source="none")
    assert _directory(mount, inside) == (None if directory is None else Path(directory))
