"""The kernel's tag of every program equals what libbpf, through bpftool, gives for the same object.

A tag digests the final instructions (map descriptors masked), so equality means the same linking,
the same CO-RE results and the same order of subprograms.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from chadthrottle.bpf.constants import BtfKind
from chadthrottle.bpf.kernel_btf import vmlinux
from chadthrottle.bpf.loader import load
from chadthrottle.bpf.parse import open_object
from chadthrottle.bpf.programs import Program
from tests.support.needs import lacking
from tests.support.objects import SAME_AS_LIBBPF


def libbpf_tags(path: Path, bpffs: Path) -> dict[str, str]:
    pins = bpffs / "programs"
    pins.mkdir()
    subprocess.run(["bpftool", "prog", "loadall", path, pins], check=True, capture_output=True)
    tags = {}
    # Not `bpftool prog show`: it opens the programs' maps by id, and a prog_array opened and closed twice
    # within a moment loses a reference on Linux 6.18 (prog_array_map_clear: bpf_map_inc, then a work item
    # that may be pending already), so that it stays until reboot.
    for pin in pins.iterdir():
        with Program.open_pinned(pin) as program:
            tags[pin.name] = program.info().tag
        pin.unlink()
    return tags


@pytest.mark.parametrize("name", SAME_AS_LIBBPF)
def test_tags_are_libbpfs(name: str, object_path: Callable[[str], Path], bpffs: Path) -> None:
    if name == "kfunc" and vmlinux().find(BtfKind.BTF_KIND_FUNC, "bpf_rcu_read_lock") is None:
        lacking("the kernel function bpf_rcu_read_lock", "6.2")
    path = object_path(name)
    expected = libbpf_tags(path, bpffs)
    with load(open_object(path)) as loaded:
        tags = {program: held.info().tag for program, held in loaded.programs.items()}
    assert tags
    assert tags == expected


def test_tcx_sections_hold_the_code_that_tc_does(object_path: Callable[[str], Path]) -> None:
    # libbpf 1.1 does not know tcx sections; its twin object stands in.
    with load(open_object(object_path("tcx"))) as tcx, load(open_object(object_path("tcx_as_tc"))) as tc:
        assert [p.info().tag for p in tcx.programs.values()] == [p.info().tag for p in tc.programs.values()]


def test_flavours_of_the_build_load_the_same(object_path: Callable[[str], Path], tmp_path: Path) -> None:
    from tools import build_ebpf

    built = build_ebpf.build(build_ebpf.EBPF, [build_ebpf.EBPF], tmp_path, "release")
    release = next(one.path for one in built if one.path.name == "traffic.bpf.o")
    with load(open_object(release)) as one, load(open_object(object_path("traffic"))) as two:
        assert {n: p.info().tag for n, p in one.programs.items()} == {n: p.info().tag for n, p in two.programs.items()}
