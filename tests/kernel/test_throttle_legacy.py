"""--attach legacy: attachments outlive everything, so each is recorded, and none is left."""

import dataclasses
import random
import time
from functools import partial
from pathlib import Path

import pytest

from chadthrottle import limits
from chadthrottle.bpf import cgroup_link
from chadthrottle.bpf.cgroupfs import open_cgroup
from chadthrottle.bpf.constants import AttachType
from chadthrottle.bpf.query import program_ids
from chadthrottle.errors import UsageError
from chadthrottle.model import AttachPoint, Engine
from tests.support.killed import killer
from tests.support.rates import rate
from tests.support.throttled import LIMIT, Program, Scene

HOOKS = (
    AttachType.BPF_CGROUP_INET_EGRESS,
    AttachType.BPF_CGROUP_INET_INGRESS,
    AttachType.BPF_CGROUP_SOCK_OPS,
    AttachType.BPF_CGROUP_INET_SOCK_CREATE,
)


@pytest.fixture
def program(stage: Scene) -> Program:
    return stage.start()


def attached(cgroup: Path) -> int:
    """How many of our hooks have a program."""
    with open_cgroup(cgroup) as directory:
        return sum(len(program_ids(directory.fd, hook)) for hook in HOOKS)


def test_it_limits_and_goes(stage: Scene, program: Program) -> None:
    program.busy_upload()
    done = stage.throttle(program, attach="legacy")
    assert done.state.attached_by == "legacy"
    assert attached(stage.cgroup) == len(HOOKS)
    time.sleep(0.3)
    assert 0 < rate(program.sent) < 1.6 * LIMIT
    (rule,) = stage.listing().rules
    assert rule.to_json()["attach"] == {"method": "legacy", "at": str(stage.cgroup)}
    stage.release(program)
    assert attached(stage.cgroup) == 0
    assert not stage.base.exists()


def test_hooks_are_attached_one_way(stage: Scene, program: Program) -> None:
    stage.throttle(program, attach="legacy")
    with pytest.raises(UsageError, match="attached by legacy, not by link"):
        stage.throttle(program, attach="link")
    assert stage.throttle(program, attach="auto").state.attached_by == "legacy"
    stage.release()
    stage.throttle(program, attach="link")
    with pytest.raises(UsageError, match="attached by link, not by legacy"):
        stage.throttle(program, attach="legacy")


def test_auto_where_there_are_no_links(stage: Scene, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Linux before 5.7. (The rest of the object needs later ones.)"""
    monkeypatch.setattr(cgroup_link, "has_links", lambda: False)
    assert stage.throttle(program).state.attached_by == "legacy"


def test_cgroup_removed_meanwhile(stage: Scene, program: Program) -> None:
    """Its attachments went with it: there is nothing to detach, and nothing to complain of."""
    below = stage.cgroup / "below"
    below.mkdir()
    spec = dataclasses.replace(stage.spec(program.pid, attach="legacy"), at=AttachPoint(str(below)))
    limits.throttle(spec, stage.base)
    below.rmdir()
    assert stage.listing().rules[0].at.at == "/(removed)"
    stage.release()
    assert not stage.base.exists()


@pytest.mark.parametrize("action", ["throttle", "release"])
def test_killed_at_any_instant(action: str, stage: Scene, program: Program) -> None:
    """What it had attached was recorded: the next command finds it."""
    dice = random.Random(5)
    seen = set()
    with killer(stage) as command:
        run = (
            command.release
            if action == "release"
            else partial(command.throttle, program, engine=Engine.CGROUP, attach="legacy")
        )
        if action == "release":
            stage.throttle(program, attach="legacy")
        whole_s = run().ran_s
        stage.release()
        for _ in range(12):
            if action == "release":
                stage.throttle(program, attach="legacy")
            run(after_s=dice.uniform(0.2, 1) * whole_s)
            seen.add(attached(stage.cgroup))
            stage.release()
            assert attached(stage.cgroup) == 0
            assert not stage.base.exists()
    print(f"\nattached when killed: {sorted(seen)}")
