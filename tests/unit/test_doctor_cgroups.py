"""doctor, cgroups: what sock_diag says, and whose a cgroup is."""

import os
import struct
from pathlib import Path

from chadthrottle.doctor.delegation import told
from chadthrottle.doctor.socket_cgroups import cgroup_in

MESSAGE = bytes(72)  # struct inet_diag_msg


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def test_the_cgroup_of_a_socket() -> None:
    shutdown, cgroup_id = attribute(8, b"\x03"), attribute(21, struct.pack("=Q", 1 << 40 | 5))
    assert cgroup_in(MESSAGE + shutdown + cgroup_id) == 1 << 40 | 5
    assert cgroup_in(MESSAGE + shutdown) == 0
    assert cgroup_in(MESSAGE + cgroup_id[:6]) == 0
    assert cgroup_in(MESSAGE + b"\0\0\0\0") == 0
    assert cgroup_in(b"") == 0


def test_whose_a_directory_is(tmp_path: Path) -> None:
    (tmp_path / "cgroup.type").write_text("threaded\n", encoding="ascii")
    text = told(tmp_path)
    assert text.startswith(f"{tmp_path}, owned by ")
    assert "threaded" in text
    os.setxattr(tmp_path, "user.delegate", b"1")
    assert ", delegated, threaded" in told(tmp_path)
