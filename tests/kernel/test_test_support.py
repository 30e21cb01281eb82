"""The kernel tests' own machinery: leaks are seen, and what a test leaves in its cgroup goes away."""

import subprocess
import sys
from pathlib import Path

from chadthrottle.bpf.cgroup_link import attach_cgroup
from chadthrottle.bpf.constants import AttachType
from tests.support import raw_programs as raw
from tests.support.cgroups import PREFIX, make_cgroup, remove_cgroup
from tests.support.leftovers import Machine
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
