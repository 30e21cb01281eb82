"""The kernel's tag of every program equals what libbpf, through bpftool, gives for the same object.

A tag digests the final instructions (map descriptors masked), so equality means the same linking,
the same CO-RE results and the same order of subprograms.
"""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from chadthrottle.bpf import extern_link
from chadthrottle.bpf.constants import BtfKind
from chadthrottle.bpf.extern_link import Patch
from chadthrottle.bpf.kernel_btf import vmlinux
from chadthrottle.bpf.loader import load
from chadthrottle.bpf.parse import open_object
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.spec import Extern, ObjectSpec
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


def libbpf_version() -> tuple[int, int]:
    said = subprocess.run(["bpftool", "version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"libbpf v(\d+)\.(\d+)", said)
    assert found, said
    return int(found[1]), int(found[2])


def poison_as_libbpf_1_2(spec: ObjectSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 1.2 on, a weak kernel function that is missing becomes a call of helper 2002000000 + the extern's number
    (poison_kfunc_call()), where 1.1 and this runtime call the kernel function 0 (docs/adr/0003).
    """
    names = sorted(spec.externs)

    def call_patch(extern: Extern) -> Patch:
        patch = extern_link.call_patch(extern)
        return patch if patch.low else Patch(0, 2002000000 + names.index(extern.name))

    monkeypatch.setattr("chadthrottle.bpf.loader.call_patch", call_patch)


@pytest.mark.parametrize("name", SAME_AS_LIBBPF)
def test_tags_are_libbpfs(
    name: str, object_path: Callable[[str], Path], bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "kfunc" and vmlinux().find(BtfKind.BTF_KIND_FUNC, "bpf_rcu_read_lock") is None:
        lacking("the kernel function bpf_rcu_read_lock", "6.2")
    path = object_path(name)
    expected = libbpf_tags(path, bpffs)
    spec = open_object(path)
    if name == "kfunc" and libbpf_version() >= (1, 2):
        poison_as_libbpf_1_2(spec, monkeypatch)
    with load(spec) as loaded:
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
