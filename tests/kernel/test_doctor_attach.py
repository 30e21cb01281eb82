"""doctor, attach: the three-way trial, healthy and disturbed; and what is left when doctor is killed in the middle."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from chadthrottle.bpf import attr
from chadthrottle.bpf.cgroup_link import attach_cgroup
from chadthrottle.bpf.cgroupfs import open_cgroup
from chadthrottle.bpf.constants import BpfCmd
from chadthrottle.bpf.query import query_cgroup
from chadthrottle.bpf.syscall import bpf
from chadthrottle.doctor import attach, conflicts, examine, trial, trial_guard, trial_place
from chadthrottle.doctor.check import Context
from chadthrottle.doctor.finding import Finding, Report, Status
from chadthrottle.doctor.trial import MARK, bench
from chadthrottle.doctor.trial_abi import TRIAL_DROPPED_BYTES, TrialSocket
from chadthrottle.doctor.trial_guard import HOOKS, sweep
from chadthrottle.doctor.trial_moves import move
from chadthrottle.doctor.trial_steps import FAR, NEAR, talk
from tests.support.cgroups import cgroup2_root
from tests.support.command import Command
from tests.support.doctor import diagnose, sleeping
from tests.support.objects import built_objects
from tests.support.patience import patient
from tests.support.raw_programs import load_for

ALL = tuple(f"CT-ATTACH-{number:02}" for number in range(1, 11))
AT_TARGET = ("CT-ATTACH-05", "CT-ATTACH-06")
CHECKS = (*conflicts.CHECKS, *attach.CHECKS)


@pytest.fixture(autouse=True)
def built() -> None:
    built_objects("throttle", "queue", "traffic", "trial")


@pytest.fixture
def inner(leaf_cgroup: Path) -> Path:
    path = leaf_cgroup / "inner"
    path.mkdir()
    return path


@pytest.fixture
def target(inner: Path) -> Iterator[int]:
    with sleeping() as pid:
        (inner / "cgroup.procs").write_text(str(pid), encoding="ascii")
        yield pid


def root() -> Path:
    found = cgroup2_root()
    assert found is not None
    return found


def programs_on(cgroup: Path) -> list[str]:
    with open_cgroup(cgroup) as directory:
        return [each.name for hook in HOOKS for each in query_cgroup(directory.fd, hook).programs]


def of_doctors() -> list[Path]:
    """Cgroups that a trial has made."""
    return list(root().glob("chadthrottle-doctor-*"))


def here(pid: int | None, **settings: Any) -> Report:
    """The two families, in this process, for faults that come in the middle of a step."""
    return examine(pid, checks=CHECKS, **settings)


def found_in(report: Report, check_id: str) -> Finding:
    return next(each for each in report.findings if each.id == check_id)


def causes(report: Report) -> list[str]:
    return [each.id for each in report.findings if each.is_cause]


def test_healthy(chadthrottle: Command, target: int, inner: Path) -> None:
    found = diagnose(chadthrottle, target, as_started=True)
    found.is_well(*ALL)
    assert "the earlier tool failed because it passed flags 2" in found.text("CT-ATTACH-03")
    told = found.text("CT-ATTACH-05")
    assert f"link_create(flags 0) on {inner}" in told
    assert "egress: 3 packets counted, 1 dropped" in told
    assert "ingress: 3 packets counted, 1 dropped" in told
    assert "no link" in found.text("CT-ATTACH-06")
    assert programs_on(inner) == []
    assert list(inner.glob("*/")) == []


def test_the_wrong_ways_are_refused_as_they_should_be(chadthrottle: Command) -> None:
    found = diagnose(chadthrottle)
    found.is_well("CT-ATTACH-03", "CT-ATTACH-09", "CT-ATTACH-10")
    assert "BPF_F_ALLOW_MULTI: EINVAL; the same with flags 0: success" in found.text("CT-ATTACH-03")
    assert "returning 7 of at most 3: EINVAL: " in found.text("CT-ATTACH-09")
    assert "link_create on ingress of an egress program: EINVAL" in found.text("CT-ATTACH-10")


def test_three_trials_take_little_time(target: int) -> None:
    began = time.monotonic()
    assert causes(here(target)) == []
    assert time.monotonic() - began < patient(1.5)


def test_the_root_alone(chadthrottle: Command, target: int) -> None:
    found = diagnose(chadthrottle, target, variables={"CHADTHROTTLE_TEST_ROOT_CGROUP": "1"})
    found.is_well("CT-ATTACH-01", "CT-ATTACH-03", "CT-ATTACH-07", "CT-ATTACH-08")
    for each in ("CT-ATTACH-02", "CT-ATTACH-04", *AT_TARGET):
        assert "limits the trial to the root" in found[each]["summary"]
    assert "chadthrottle-doctor-" not in found.text("CT-ATTACH-01"), "no cgroup is made"


def test_a_target_in_a_threaded_cgroup(chadthrottle: Command, leaf_cgroup: Path, inner: Path, target: int) -> None:
    """It may have no cgroup of the ordinary kind below it: our process goes among the target's own."""
    (leaf_cgroup / "cgroup.procs").write_text(str(target), encoding="ascii")
    (inner / "cgroup.type").write_text("threaded", encoding="ascii")
    (inner / "cgroup.threads").write_text(str(target), encoding="ascii")
    found = diagnose(chadthrottle, target)
    found.is_well(*AT_TARGET)


def test_a_target_whose_cgroup_may_have_none_below(chadthrottle: Command, inner: Path, target: int) -> None:
    (inner / "cgroup.max.descendants").write_text("0", encoding="ascii")
    diagnose(chadthrottle, target).is_well(*AT_TARGET)


def test_a_target_in_a_frozen_cgroup_does_not_freeze_doctor(chadthrottle: Command, inner: Path, target: int) -> None:
    (inner / "cgroup.freeze").write_text("1", encoding="ascii")
    found = diagnose(chadthrottle, target)
    found.is_well("CT-ATTACH-02", "CT-ATTACH-07")
    assert {found.state(each) for each in AT_TARGET} == {"could not tell"}
    assert "is frozen" in found.text("CT-ATTACH-05")


def test_a_neighbour_that_denies_all_packets_is_no_fault_of_ours(
    chadthrottle: Command, inner: Path, target: int
) -> None:
    """As systemd's IPAddressDeny=any does; our program counts and drops beside it."""
    with ExitStack() as stack:
        for hook in HOOKS:
            deny = stack.enter_context(load_for(hook, "ct_deny", result=0))
            stack.enter_context(attach_cgroup(deny, inner))
        found = diagnose(chadthrottle, target)
        found.is_well(*AT_TARGET)
        assert "something else than the trial's program keeps packets back" in found.text("CT-ATTACH-05")


def remove(cgroup: Path) -> None:
    """As a service manager does: all in it is killed, and it is gone with all below."""
    (cgroup / "cgroup.kill").write_text("1", encoding="ascii")
    deadline = time.monotonic() + patient(5)
    while cgroup.exists():
        for directory, _, _ in os.walk(cgroup, topdown=False):
            with suppress(OSError):
                Path(directory).rmdir()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def before_nth_talk(patch: pytest.MonkeyPatch, number: int, then: Callable[[], object]) -> None:
    """`then` happens when the programs of the nth trial with packets are attached."""
    real, calls = talk, []

    def talk_then(*arguments: Any) -> list[str]:
        calls.append(1)
        if len(calls) == number:
            then()
        return real(*arguments)

    patch.setattr(trial, "talk", talk_then)


def test_our_own_cgroup_is_removed_under_us(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        before_nth_talk(patch, 1, lambda: remove(*of_doctors()))
        report = here(None)
    assert causes(report) == ["CT-ATTACH-02"], report
    outcome = found_in(report, "CT-ATTACH-02").outcome
    assert "was removed while it was tried" in outcome.summary
    assert outcome.cure[-1] == "sudo chadthrottle doctor"
    assert found_in(report, "CT-ATTACH-07").outcome.because == "CT-ATTACH-02"
    assert causes(here(None)) == [], "the cure: once more"


def test_the_targets_cgroup_is_removed_under_us(monkeypatch: pytest.MonkeyPatch, inner: Path, target: int) -> None:
    with monkeypatch.context() as patch:
        # 1 and 2 are in our own cgroup, 3 and 4 at the root.
        before_nth_talk(patch, 5, lambda: remove(inner))
        report = here(target)
    assert causes(report) == ["CT-ATTACH-05"], report
    outcome = found_in(report, "CT-ATTACH-05").outcome
    assert outcome.status is Status.WARNING, "a limit at the root holds"
    assert str(inner) in outcome.summary
    assert f"sudo chadthrottle doctor {target}" in outcome.cure
    assert found_in(report, "CT-ATTACH-06").outcome.because == "CT-ATTACH-05"


def test_the_root_works_and_our_own_cgroup_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who watches the tree puts an exclusive program on every new cgroup."""
    real = trial_place.bench_of

    def occupied(context: Context) -> trial.Bench:
        made = real(context)
        if not programs_on(made.leaf or root()):
            attach_exclusive(made.leaf or root())
        return made

    monkeypatch.setattr(attach, "bench_of", occupied)
    report = here(None)
    assert causes(report) == ["CT-ATTACH-01"], report
    outcome = found_in(report, "CT-ATTACH-01").outcome
    assert outcome.came_back == "EPERM at link_create(flags 0)"
    assert "ct_fault_excl" in outcome.means
    assert "At the root it works" in outcome.means
    assert any(line.startswith("sudo bpftool cgroup detach ") for line in outcome.cure)
    assert found_in(report, "CT-ATTACH-07").outcome.because == "CT-ATTACH-01", "nothing of ours goes to the root"


def attach_exclusive(cgroup: Path) -> None:
    assert cgroup != root()
    with load_for(HOOKS[0], "ct_fault_excl") as program, open_cgroup(cgroup) as directory:
        request = attr.ProgAttach(target_fd=directory.fd, attach_bpf_fd=program.fd, attach_type=HOOKS[0])
        bpf(BpfCmd.BPF_PROG_ATTACH, request)


def test_nobody_elses_packets_are_dropped(leaf_cgroup: Path) -> None:
    """Not of the size, not from the cgroup: only what a trial's own socket, with its mark, sends in that size."""
    with bench(root(), with_leaf=True) as made:
        near, far = made._network()
        ours = made._loaded()
        move(near, leaf_cgroup)
        with ExitStack() as stack:
            for name, hook in trial_guard.PROGRAMS.items():
                stack.enter_context(made._attached(ours.programs[name], leaf_cgroup, hook, "link"))
            port, _ = far.ask("open", FAR, 0)
            for known, mark, arrives in ((False, MARK, True), (True, 0, True), (True, MARK, False)):
                _, cookie = near.ask("open", NEAR, mark)
                if known:
                    ours.maps["sockets"].update(cookie.to_bytes(8, "little"), bytes(TrialSocket()))
                near.ask("send", FAR, port, [TRIAL_DROPPED_BYTES, 100])
                assert far.ask("hear", 2 if arrives else 1) == ([TRIAL_DROPPED_BYTES, 100] if arrives else [100])
        near.ask("close")
        move(near, made.leaf or root())


def killed_in_a_legacy_trial(pid: int, *, with_guard: bool) -> None:
    """A doctor that is killed when its programs are attached to the target's cgroup without links."""

    def kill() -> None:
        if with_guard:
            os.kill(_guard_of(os.getpid()), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            with pytest.MonkeyPatch.context() as patch:
                before_nth_talk(patch, 6, kill)
                here(pid)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it was killed where it should be"
    assert os.WTERMSIG(status) == signal.SIGKILL


def _guard_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return next(int(each) for each in children if Path(f"/proc/{each}/comm").read_text().strip() == "ct-guard")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + patient(5)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _require_passing(cgroup: Path) -> None:
    """Whatever sits on the cgroup lets packets of the size pass that trials drop."""
    with bench(root(), with_leaf=True) as made:
        near, far = made._network()
        move(near, cgroup)
        _, _ = near.ask("open", NEAR, MARK)
        port, _ = far.ask("open", FAR, MARK)
        near.ask("send", FAR, port, [TRIAL_DROPPED_BYTES])
        assert far.ask("hear", 1) == [TRIAL_DROPPED_BYTES]
        near.ask("close")
        move(near, made.leaf or root())


def test_killed_in_the_middle_its_guard_detaches(chadthrottle: Command, inner: Path, target: int) -> None:
    killed_in_a_legacy_trial(target, with_guard=False)
    wait_until(lambda: not programs_on(inner) and not of_doctors() and not list(inner.glob("*/")))
    diagnose(chadthrottle, target).is_well(*ALL)


def test_killed_with_its_guard_nothing_is_dropped_and_the_next_one_sweeps(
    chadthrottle: Command, monkeypatch: pytest.MonkeyPatch, inner: Path, target: int
) -> None:
    killed_in_a_legacy_trial(target, with_guard=True)
    assert sorted(programs_on(inner)) == ["chad_trial_in", "chad_trial_out"], "this is what is to be swept"
    assert of_doctors()
    _require_passing(inner)
    # Before its time is up it might be another doctor's; the cgroups say whose they were.
    assert sweep(root(), [inner])
    assert sorted(programs_on(inner)) == ["chad_trial_in", "chad_trial_out"]
    assert not of_doctors()
    monkeypatch.setattr(trial_guard, "LIFETIME_S", 0)
    report = here(target)
    assert causes(report) == []
    told = found_in(report, "CT-ATTACH-01").outcome.details
    assert any("left by a doctor that was killed" in line and "chad_trial_out" in line for line in told)
    assert programs_on(inner) == []
    assert not of_doctors()
    monkeypatch.undo()
    diagnose(chadthrottle, target).is_well(*ALL)
