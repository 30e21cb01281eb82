"""Faults for the family enforcement: what a queue lacks, and what somebody did to a queue in use."""

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from chadthrottle.abi import THROTTLE_MAX_PROCESSES
from chadthrottle.bpf.constants import ElemFlag
from chadthrottle.bpf.errors import BpfError
from chadthrottle.doctor import Report, Status, canary, examine
from chadthrottle.doctor.enforcement import CHECKS
from chadthrottle.enforce.private_network import private_network
from chadthrottle.errors import ChadthrottleError, KernelCannotError
from chadthrottle.limits.meters import hooks_in_place
from chadthrottle.model import Engine
from chadthrottle.netlink import Links, TrafficControl
from tests.support.command import Command
from tests.support.doctor import TOO_SLOW, diagnose
from tests.support.patience import patient
from tests.support.queued import DEVICE, ip, join, require_queued
from tests.support.rates import within
from tests.support.throttled import Program, Scene

PIDS_END = 1 << 22  # PID_MAX_LIMIT of include/linux/threads.h


def refuse(piece: str) -> Callable[..., Any]:
    def refused(*_: object, **__: object) -> None:
        raise KernelCannotError(f"cannot make {piece}: Operation not supported")

    return refused


def causes(report: Report) -> list[str]:
    return [each.id for each in report.findings if each.is_cause]


def state(report: Report, check_id: str) -> Status:
    return next(each.outcome.status for each in report.findings if each.id == check_id)


@pytest.mark.parametrize(
    ("owner", "name", "piece", "module"),
    [
        (Links, "add_ifb", "IFB devices", "ifb numifbs=0"),
        (TrafficControl, "make_htb", "HTB", "sch_htb"),
        (TrafficControl, "set_bulk_leaf", "tbf", "sch_tbf"),
    ],
)
def test_piece_of_a_queue_missing(
    owner: type, name: str, piece: str, module: str, bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This kernel has them built in, so the one function that asks for it refuses. All else is real."""
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, refuse(piece))
        report = examine(base=bpffs / "chadthrottle", checks=CHECKS)
    assert causes(report) == ["CT-ENF-01"]
    assert report.exit_code == 0
    finding = next(each for each in report.findings if each.id == "CT-ENF-01")
    assert piece in finding.outcome.summary
    assert f"sudo modprobe {module}" in finding.outcome.cure
    down = next(each for each in report.findings if each.id == "CT-ENF-05")
    assert "policed" in down.outcome.summary
    assert causes(examine(base=bpffs / "chadthrottle", checks=CHECKS)) == []


def test_nothing_can_be_limited(bpffs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else was fine: told once, with the step, and what follows from it as such."""

    def refused(*_: object, **__: object) -> None:
        raise ChadthrottleError("an odd thing happened", hint="Do this.")

    monkeypatch.setattr("chadthrottle.doctor.canary.throttle", refused)
    report = examine(base=bpffs / "chadthrottle", checks=CHECKS)
    assert causes(report) == ["CT-ENF-02"]
    assert report.exit_code == 5
    assert [state(report, f"CT-ENF-0{number}") for number in (3, 4, 5)] == [Status.UNKNOWN] * 3


@pytest.mark.parametrize("achieved", [1_000_000, 40_000_000])
def test_a_limit_that_is_not_held(achieved: int, bpffs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chadthrottle.model import Direction

    flown = canary.fly()
    assert flown.failed is None
    flown.achieved[Direction.UP] = achieved
    monkeypatch.setattr(canary, "fly", lambda: flown)
    assert causes(examine(base=bpffs / "chadthrottle", checks=CHECKS)) == ["CT-ENF-04"]


def test_children_that_are_not_noticed(bpffs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel here lacks the tracepoints once they are attached, so what is read of them comes back empty."""
    monkeypatch.setattr("chadthrottle.doctor.canary.members", lambda *_: [])
    report = examine(base=bpffs / "chadthrottle", checks=CHECKS)
    assert [each for each in causes(report) if each not in TOO_SLOW] == ["CT-ENF-03"]
    assert report.exit_code == 5


def test_a_child_of_the_canarys_ends_with_it() -> None:
    """Killed with doctor, it lets go of all that doctor has open."""
    with private_network(canary._Bird, ("198.51.100.1/24",), ("198.51.100.2/24",)) as (near, _):
        child = os.pidfd_open(near.ask("have_child"))
        try:
            os.kill(near.pid, signal.SIGKILL)
            assert select.select([child], [], [], patient(2))[0]
        finally:
            os.close(child)


def test_canary_is_held(bpffs: Path) -> None:
    report = examine(base=bpffs / "chadthrottle", checks=CHECKS)
    assert {state(report, each.id) for each in CHECKS if each.id not in TOO_SLOW} == {Status.OK}


def repaired(chadthrottle: Command, cure: list[str]) -> None:
    """What the cure says, word for word, in the surroundings of the test."""
    assert cure[0] == "sudo timeout 2 chadthrottle watch"
    chadthrottle("watch", wrapper=("timeout", f"{min(10, patient(2)):g}"))


def test_device_of_the_queue_removed(chadthrottle: Command, stage: Scene) -> None:
    program = stage.start()
    program.busy_download()
    stage.throttle(program)
    ip(stage.here, "link", "del", DEVICE)
    found = diagnose(chadthrottle, as_started=True)
    found.names_only("CT-ENF-06", "removed", DEVICE, str(program.pid), status=0)
    repaired(chadthrottle, found["CT-ENF-06"]["cure"])
    diagnose(chadthrottle).is_well("CT-ENF-06")
    require_queued(stage, program)


def test_device_of_the_queue_set_down(chadthrottle: Command, stage: Scene) -> None:
    program = stage.start()
    program.busy_download()
    stage.throttle(program)
    ip(stage.here, "link", "set", DEVICE, "down")
    found = diagnose(chadthrottle, program.pid)
    found.names_only("CT-ENF-06", "set down", "stand still", str(program.pid), status=0)
    repaired(chadthrottle, found["CT-ENF-06"]["cure"])
    diagnose(chadthrottle).is_well("CT-ENF-06")
    require_queued(stage, program)


def test_device_that_came_since(chadthrottle: Command, stage: Scene) -> None:
    stage.throttle(stage.start())
    join(stage.here, stage.peer.endpoint, "veth1", 8)
    found = diagnose(chadthrottle)
    found.names_only("CT-ENF-06", "veth1", status=0)
    repaired(chadthrottle, found["CT-ENF-06"]["cure"])
    diagnose(chadthrottle).is_well("CT-ENF-06")


def test_policed_because_no_queue_could_be_made(
    chadthrottle: Command, stage: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = stage.start()
    with monkeypatch.context() as patch:
        patch.setattr(Links, "add_ifb", refuse("IFB devices"))
        stage.throttle(program)
    diagnose(chadthrottle).names_only("CT-ENF-07", str(program.pid), "this machine made no queue", status=0)
    stage.throttle(program)
    diagnose(chadthrottle).is_well("CT-ENF-07")


def test_expired_limit_beside_another(chadthrottle: Command, stage: Scene) -> None:
    first, second = stage.start(), stage.start()
    stage.throttle(first, duration_s=1)
    stage.throttle(second)
    assert within(5, lambda: stage.limited() == {second.pid})
    found = diagnose(chadthrottle)
    found.names_only("CT-ENF-09", str(first.pid), status=0)
    stage.throttle(second)
    diagnose(chadthrottle).is_well("CT-ENF-09")


def test_children_without_room(chadthrottle: Command, stage: Scene) -> None:
    first, second = stage.start(), stage.start()
    stage.throttle(first, engine=Engine.CGROUP)
    stage.throttle(second, engine=Engine.CGROUP)
    fill_up(stage, second)
    child = first.fork()
    assert child.pid not in stage.members(first)
    found = diagnose(chadthrottle)
    found.names_only("CT-ENF-08", "1 children", str(first.pid), status=0)
    assert found["CT-ENF-08"]["cure"][-1] == "Release a limit that is not needed, then set this one again."
    stage.release(second)
    stage.throttle(first, engine=Engine.CGROUP)
    assert child.pid in stage.members(first)
    diagnose(chadthrottle).is_well("CT-ENF-08")


def fill_up(stage: Scene, program: Program) -> None:
    """The map of processes, with numbers that no process has, as if all were of this one's limit."""
    with hooks_in_place(stage.base) as hooks:
        assert hooks is not None
        (value,) = (value for key, value in hooks.processes.items() if int.from_bytes(key, "little") == program.pid)
        with suppress(BpfError):  # E2BIG; that no child finds room shows
            for number in range(PIDS_END, PIDS_END + THROTTLE_MAX_PROCESSES):
                hooks.processes.update(number.to_bytes(4, "little"), value, ElemFlag.BPF_ANY)
