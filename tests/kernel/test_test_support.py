"""The kernel tests' own machinery: leaks are seen, and what a test leaves in its cgroup goes away."""

import os
import signal
import subprocess
import sys
import time
from functools import partialmethod
from pathlib import Path

import pytest

from chadthrottle.bpf.cgroup_link import attach_cgroup
from chadthrottle.bpf.constants import AttachType
from chadthrottle.pins.mount import is_bpffs
from tests.support import leftovers
from tests.support import raw_programs as raw
from tests.support.bpffs import mount_bpffs
from tests.support.cgroups import PREFIX, make_cgroup, remove_cgroup
from tests.support.interrupted import clear
from tests.support.leftovers import Dying, Machine
from tests.support.network import Endpoint
from tests.support.patience import patient


def test_what_is_left_behind_is_named(leaf_cgroup: Path, bpffs: Path) -> None:
    before = Machine.now()
    assert before.additions(patience=0) == []
    with raw.load_for(AttachType.BPF_CGROUP_INET_EGRESS, name="leak") as program:
        with attach_cgroup(program, leaf_cgroup) as link:
            number = program.info().id
            link.pin(bpffs / "pin")
            assert before.additions(patience=0) == [
                str(bpffs / "pin"),
                f"link {link.id} of type 3, program {number}",
                f'program {number} "leak" of type 8',
            ]
            link.unpin()
    assert before.additions() == []


def test_what_is_not_freed_in_time_is_told_of_its_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "PATIENCE_SECONDS", 0.05)
    dying, before = Dying(), Machine.now()
    with raw.load_for(AttachType.BPF_CGROUP_INET_EGRESS, name="leak") as program:
        assert dying.after("test_a", before) == []
        assert dying.overdue(Machine.now()) == [], "it has its time"
        told = [f'program {program.info().id} "leak" of type 8, by test_a']
        time.sleep(0.1)
        assert dying.overdue(Machine.now()) == told
        assert dying.after("test_a", before) == []
        assert dying.rest() == told
        assert dying.after("test_b", before) == []
    assert before.additions() == []
    assert dying.rest() == []


def test_a_pin_is_told_at_once(bpffs: Path) -> None:
    dying, before = Dying(), Machine.now()
    with raw.load_for(AttachType.BPF_CGROUP_INET_EGRESS) as program:
        program.pin(bpffs / "pin")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Machine, "additions", partialmethod(Machine.additions, 0))
            assert str(bpffs / "pin") in dying.after("test", before)


def test_left_cgroups_namespaces_and_mounts_are_named(leaf_cgroup: Path) -> None:
    assert str(leaf_cgroup) in Machine.now().others
    nowhere = Machine(Machine.now().kernel_objects, frozenset())
    assert str(leaf_cgroup) in nowhere.additions(patience=0)


def test_the_namespaces_are_named(netns_pair: tuple[Endpoint, Endpoint]) -> None:
    for end in netns_pair:
        assert f"namespace {end.namespace}" in Machine.now().others


def test_a_cgroup_goes_with_all_below_and_in_it(leaf_cgroup: Path) -> None:
    below = make_cgroup(leaf_cgroup)
    assert below.name.startswith(PREFIX)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        (below / "cgroup.procs").write_text(str(process.pid), encoding="ascii")
        remove_cgroup(leaf_cgroup)
        assert process.wait(timeout=patient(5)) != 0
    assert not leaf_cgroup.exists()


def test_a_command_in_a_namespace_keeps_bpffs_and_cgroups(
    netns_pair: tuple[Endpoint, Endpoint], bpffs: Path, leaf_cgroup: Path
) -> None:
    near = netns_pair[0]
    with raw.load_for(AttachType.BPF_CGROUP_INET_EGRESS) as program:
        program.pin(bpffs / "program")
        command = near.command("ls", "/sys/class/net", str(bpffs), str(leaf_cgroup))
        listing = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert "program" in listing
    assert "cgroup.procs" in listing


def test_what_a_killed_run_has_left_is_taken_away(leaf_cgroup: Path, bpffs: Path, tmp_path: Path) -> None:
    """Of nobody who lives."""
    place = tmp_path / "place"
    place.mkdir()
    child = os.fork()
    if not child:
        try:
            make_cgroup(leaf_cgroup.parent)
            mount_bpffs(place)
            subprocess.run(["ip", "netns", "add", f"ct-test-{os.getpid()}-own"], check=True)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    cgroup, mount, namespace = clear()
    assert cgroup.startswith(f"cgroup {leaf_cgroup.parent}/ct-test-{child}-")
    assert (mount, namespace) == (f"bpffs {place}", f"namespace ct-test-{child}-own")
    assert list(clear()) == []
    assert leaf_cgroup.exists()
    assert is_bpffs(bpffs)
    assert not is_bpffs(place)
