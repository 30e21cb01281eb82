"""doctor, conflicts: somebody else's program on the target's cgroup, or above it."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chadthrottle import cgroup
from chadthrottle.bpf import attr
from chadthrottle.bpf.cgroup_link import attach_cgroup
from chadthrottle.bpf.cgroupfs import open_cgroup
from chadthrottle.bpf.constants import AttachFlag, AttachType, BpfCmd
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.query import MAX_CGROUP_PROGRAMS
from chadthrottle.bpf.syscall import bpf
from chadthrottle.doctor import attach as attach_checks
from chadthrottle.doctor import conflicts, examine
from chadthrottle.doctor.finding import Report, Status
from tests.support.command import Command
from tests.support.doctor import Diagnosis, diagnose, sleeping
from tests.support.objects import built_objects
from tests.support.raw_programs import load_for

EGRESS = AttachType.BPF_CGROUP_INET_EGRESS


@pytest.fixture
def target(leaf_cgroup: Path) -> Iterator[int]:
    """A program in a cgroup below leaf_cgroup."""
    inner = leaf_cgroup / "inner"
    inner.mkdir()
    with sleeping() as pid:
        (inner / "cgroup.procs").write_text(str(pid), encoding="ascii")
        yield pid


def attach(program: Program, path: Path, flags: AttachFlag) -> None:
    """BPF_PROG_ATTACH, as others do it: it stays until it is detached or the cgroup is removed."""
    with open_cgroup(path) as directory:
        request = attr.ProgAttach(
            target_fd=directory.fd, attach_bpf_fd=program.fd, attach_type=EGRESS, attach_flags=flags
        )
        bpf(BpfCmd.BPF_PROG_ATTACH, request)


def attached(path: Path, flags: AttachFlag, name: str) -> int:
    """The program's id."""
    with load_for(EGRESS, name) as program:
        attach(program, path, flags)
        return program.info().id


def cured(chadthrottle: Command, target: int, found: Diagnosis, check_id: str) -> None:
    subprocess.run(["sh", "-ec", found.cure(check_id)], check=True)
    diagnose(chadthrottle, target).is_well(check_id, "CT-ATTACH-05", "CT-ATTACH-06")


def test_an_exclusive_program_on_an_ancestor(chadthrottle: Command, leaf_cgroup: Path, target: int) -> None:
    number = attached(leaf_cgroup, AttachFlag(0), "ct_fault_excl")
    found = diagnose(chadthrottle, target, as_started=True)
    found.names_only("CT-CONFLICT-02", "ct_fault_excl", f"id {number}", f"{leaf_cgroup} ", "EPERM", "--at", status=0)
    assert found["CT-ATTACH-05"]["because"] == found["CT-ATTACH-06"]["because"] == "CT-CONFLICT-02"
    assert found.state("CT-ATTACH-07") == "ok", "the root is not affected"
    cured(chadthrottle, target, found, "CT-CONFLICT-02")


def test_an_exclusive_program_on_the_targets_own_cgroup(chadthrottle: Command, leaf_cgroup: Path, target: int) -> None:
    number = attached(leaf_cgroup / "inner", AttachFlag(0), "ct_fault_leaf")
    found = diagnose(chadthrottle, target)
    found.names_only("CT-CONFLICT-02", "exclusive", "ct_fault_leaf", f"id {number}", f"{leaf_cgroup}/inner", status=0)
    cured(chadthrottle, target, found, "CT-CONFLICT-02")


def test_an_override_program_on_the_targets_own_cgroup(chadthrottle: Command, leaf_cgroup: Path, target: int) -> None:
    number = attached(leaf_cgroup / "inner", AttachFlag.BPF_F_ALLOW_OVERRIDE, "ct_fault_over")
    found = diagnose(chadthrottle, target)
    found.names_only("CT-CONFLICT-02", "override program", "ct_fault_over", f"id {number}", "BPF_F_ALLOW_OVERRIDE")
    cured(chadthrottle, target, found, "CT-CONFLICT-02")


def test_an_override_program_on_an_ancestor_is_not_silenced_by_the_trial(
    chadthrottle: Command, leaf_cgroup: Path, target: int
) -> None:
    number = attached(leaf_cgroup, AttachFlag.BPF_F_ALLOW_OVERRIDE, "ct_fault_above")
    found = diagnose(chadthrottle, target)
    found.names_only(
        "CT-CONFLICT-03", "override program", "ct_fault_above", f"id {number}", f"{leaf_cgroup} ", status=0
    )
    assert found["CT-ATTACH-05"]["because"] == "CT-CONFLICT-03", "nothing was attached below it"
    cured(chadthrottle, target, found, "CT-CONFLICT-03")


def test_sixty_four_programs(chadthrottle: Command, leaf_cgroup: Path, target: int) -> None:
    inner = leaf_cgroup / "inner"
    last = 0
    for _ in range(MAX_CGROUP_PROGRAMS):
        last = attached(inner, AttachFlag.BPF_F_ALLOW_MULTI, "ct_fault_many")
    found = diagnose(chadthrottle, target)
    found.names_only("CT-CONFLICT-04", "64 programs", str(inner), "E2BIG", f"id {last}", status=0)
    cured(chadthrottle, target, found, "CT-CONFLICT-04")


def test_neighbours_that_tolerate_others_are_listed_and_no_conflict(
    chadthrottle: Command, leaf_cgroup: Path, target: int
) -> None:
    number = attached(leaf_cgroup, AttachFlag.BPF_F_ALLOW_MULTI, "ct_neighbour")
    with ExitStack() as stack:
        linked = stack.enter_context(load_for(EGRESS, "ct_linked"))
        link = stack.enter_context(attach_cgroup(linked, leaf_cgroup / "inner"))
        found = diagnose(chadthrottle, target)
        found.is_well("CT-CONFLICT-01", "CT-CONFLICT-02", "CT-CONFLICT-03", "CT-CONFLICT-04", "CT-ATTACH-05")
        listed = found["CT-CONFLICT-01"]["details"]
        assert any(f'"ct_neighbour" (id {number}), no link' in line and str(leaf_cgroup) in line for line in listed)
        assert any(f"link {link.id}" in line and '"ct_linked"' in line for line in listed)


def as_root(patch: pytest.MonkeyPatch, directory: Path) -> Report:
    """What doctor says if this is the root: nothing is to be tried out on the machine's own."""
    patch.setattr(cgroup, "root", lambda: directory)
    return examine(checks=(*conflicts.CHECKS, *attach_checks.CHECKS))


def test_on_the_root_an_exclusive_program_keeps_all_limits_off(
    monkeypatch: pytest.MonkeyPatch, leaf_cgroup: Path
) -> None:
    built_objects("trial")
    attached(leaf_cgroup, AttachFlag(0), "ct_fault_root")
    report = as_root(monkeypatch, leaf_cgroup)
    (cause,) = (each for each in report.findings if each.is_cause)
    assert (cause.id, cause.outcome.status) == ("CT-CONFLICT-02", Status.FAILED)
    assert report.exit_code == 5
    others = {each.outcome.because for each in report.findings if each.outcome.status is Status.UNKNOWN}
    assert others == {"CT-CONFLICT-02"}
    commands = [line.removeprefix("sudo ") for line in cause.outcome.cure if line.startswith("sudo ")]
    subprocess.run(["sh", "-ec", "; ".join(commands)], check=True)
    assert as_root(monkeypatch, leaf_cgroup).exit_code == 0


def test_on_the_root_64_programs_leave_no_room_for_limits(monkeypatch: pytest.MonkeyPatch, leaf_cgroup: Path) -> None:
    built_objects("trial")
    for _ in range(MAX_CGROUP_PROGRAMS):
        attached(leaf_cgroup, AttachFlag.BPF_F_ALLOW_MULTI, "ct_fault_many")
    report = as_root(monkeypatch, leaf_cgroup)
    (cause,) = (each for each in report.findings if each.is_cause)
    assert (cause.id, cause.outcome.status) == ("CT-CONFLICT-04", Status.FAILED)
    state = {each.id: each.outcome for each in report.findings}
    assert state["CT-ATTACH-02"].status is Status.OK, "a cgroup of our own has room"
    assert state["CT-ATTACH-07"].because == state["CT-ATTACH-08"].because == "CT-CONFLICT-04"
