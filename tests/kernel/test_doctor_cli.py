"""`chadthrottle doctor` on a healthy machine, without root, and when a check of its own is broken."""

import os
import signal
import time
from pathlib import Path

import pytest

from chadthrottle.cli import main
from chadthrottle.doctor.catalogue import CHECKS
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.examine import examine
from chadthrottle.doctor.finding import Group, Outcome
from tests.support.command import PROGRAM, Command
from tests.support.doctor import causes, diagnose, without_root
from tests.support.leftovers import Machine
from tests.support.patience import patient

ALONE_S = 3.0
"""On a quiet machine; others may be at work on this one, so the best of some runs counts."""


def test_healthy_machine(chadthrottle: Command) -> None:
    """No cause, a summary; the best of three runs is quick, and nothing is left at the end of each."""
    best = float("inf")
    for _ in range(3):
        before = Machine.now()
        began = time.monotonic()
        found = diagnose(chadthrottle, as_started=True)
        best = min(best, time.monotonic() - began)
        found.is_well()
        assert found.report["works"]
        assert not before.additions()
        if best < ALONE_S:
            break
    assert best < patient(ALONE_S)


def test_healthy_machine_as_text(chadthrottle: Command) -> None:
    answer = chadthrottle("doctor")
    assert answer.status == 0
    assert "Nothing" in answer.out
    for line in answer.out.splitlines():
        assert len(line) <= 80 or " sudo " in line, line


def test_target_that_is_this_process(chadthrottle: Command) -> None:
    diagnose(chadthrottle, os.getpid()).is_well()


def test_quiet(chadthrottle: Command) -> None:
    answer = chadthrottle("doctor", "--quiet")
    assert answer.status == 0
    assert " ok " not in answer.out


def test_without_root(chadthrottle: Command) -> None:
    with without_root() as wrapper:
        found = diagnose(chadthrottle, wrapper=wrapper)
        answer = chadthrottle("doctor", wrapper=wrapper)
    assert found.status == answer.status == 3
    assert "Traceback" not in answer.err + answer.out
    assert any(each["status"] == "ok" for each in found.report["findings"])
    assert len(found.causes) == 1, found.in_short()


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_check_that_is_broken(
    words: tuple[str, ...], bpffs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others go on, and the exit status says that it is doctor's fault."""

    def broken(_: Context) -> Outcome:
        raise RuntimeError("nobody thought of this")

    checks = (
        Check("CT-SYS-99", Group.SYSTEM, "nothing", broken),
        *(each for each in CHECKS if each.group is Group.LEFTOVERS),
    )
    monkeypatch.setattr(
        "chadthrottle.doctor.examine",
        lambda pid=None, **more: examine(pid, **more, base=bpffs / "chadthrottle", checks=checks),
    )
    assert main(["doctor", *words]) == 1
    told = capsys.readouterr().out
    assert "CT-DOCTOR-01" in told
    assert "nobody thought of this" in told
    assert "CT-LEFT-01" in told or "9 checks" in told


@pytest.fixture(scope="module")
def whole_s() -> list[float]:
    """How long a run takes, once it was measured."""
    return []


@pytest.mark.parametrize("part", [0.25, 0.5, 0.8])
def test_killed(part: float, whole_s: list[float], chadthrottle: Command) -> None:
    """An empty cgroup may stay, which the next doctor names, and --fix removes."""
    if not whole_s:
        ended, _, _ = chadthrottle.forked_until(patient(30), "doctor")
        assert ended.status == 0
        whole_s.append(ended.ran_s)
    before = Machine.now()
    ended, _, _ = chadthrottle.forked_until(part * whole_s[0], "doctor")
    assert ended.status == -signal.SIGKILL
    assert not before.additions()
    found = diagnose(chadthrottle)
    assert set(found.causes) <= {"CT-LEFT-08"}
    if found.causes:
        diagnose(chadthrottle, "--fix").is_well()
        diagnose(chadthrottle).is_well("CT-LEFT-08")


def test_doctor_under_a_limit(chadthrottle: Command, leaf_cgroup: Path) -> None:
    """Its own transfer would be held by that limit: not measured, and no alarm."""
    words = ("run", "10mbit", "--as-root", "--at", leaf_cgroup, "--", *PROGRAM, "doctor", "--json")
    answer = chadthrottle(*words)
    assert answer.status == 0, answer
    report = answer.json()
    assert causes(report) == []
    (limit,) = (each for each in report["findings"] if each["id"] == "CT-ENF-02")
    assert limit["status"] == "could not tell"
    assert "runs under the limit" in limit["summary"]


def test_root_alone(chadthrottle: Command) -> None:
    """The variable is the earlier tool's."""
    found = diagnose(chadthrottle, variables={"CHADTHROTTLE_TEST_ROOT_CGROUP": "1"})
    assert found.causes == []
    assert found.state("CT-ENF-02") == "could not tell"
    assert found.state("CT-ATTACH-07") == "ok"
