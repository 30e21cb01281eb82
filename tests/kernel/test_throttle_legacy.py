"""--attach legacy: attachments outlive everything, so each is recorded, and none is left."""

import dataclasses
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chadthrottle import limits
from chadthrottle.bpf import cgroup_link
from chadthrottle.bpf.cgroupfs import open_cgroup
from chadthrottle.bpf.constants import AttachType
from chadthrottle.bpf.query import program_ids
from chadthrottle.errors import UsageError
from chadthrottle.model import AttachPoint
from tests.support.network import Endpoint
from tests.support.throttled import LIMIT, PROJECT, Program, Scene, scene

HOOKS = (
    AttachType.BPF_CGROUP_INET_EGRESS,
    AttachType.BPF_CGROUP_INET_INGRESS,
    AttachType.BPF_CGROUP_SOCK_OPS,
    AttachType.BPF_CGROUP_INET_SOCK_CREATE,
)

COMMAND = """if True:
    import sys
    from pathlib import Path
    from chadthrottle import limits
    from chadthrottle.artifacts import object_path
    from chadthrottle.bpf import cgroup_link, iter_link, loader, parse, tracing_link
    from chadthrottle.model import AttachPoint, ProcessIdentity, RuleSpec

    action, pid, ticks, at, base = sys.argv[1:]
    process = ProcessIdentity(int(pid), int(ticks), "killed")
    spec = RuleSpec(process=process, rate_up_bytes_per_s=1_000_000, at=AttachPoint(at), attach="legacy")
    sys.stdout.write("ready")
    sys.stdout.flush()
    sys.stdin.read(1)
    limits.throttle(spec, Path(base)) if action == "throttle" else limits.release(None, base=Path(base))
"""


@pytest.fixture
def stage(netns_pair: tuple[Endpoint, Endpoint], leaf_cgroup: Path, bpffs: Path) -> Iterator[Scene]:
    with scene(netns_pair, leaf_cgroup, bpffs) as made:
        yield made


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
    before, began = program.sent(), time.monotonic()
    time.sleep(1)
    assert 0 < (program.sent() - before) / (time.monotonic() - began) < 1.6 * LIMIT
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
    whole = run_killed(stage, program, action, 20)
    stage.release()
    dice = random.Random(5)
    seen = set()
    for _ in range(12):
        if action == "release":
            stage.throttle(program, attach="legacy")
        run_killed(stage, program, action, dice.uniform(0.2, 1) * whole)
        seen.add(attached(stage.cgroup))
        stage.release()
        assert attached(stage.cgroup) == 0
        assert not stage.base.exists()
    print(f"\nattached when killed: {sorted(seen)}")


def run_killed(stage: Scene, program: Program, action: str, after_s: float) -> float:
    """Run a command and kill it so long after it began to work, if it is not through; how long it ran."""
    spec = stage.spec(program.pid)
    words = [action, str(program.pid), str(spec.process.start_time_ticks), str(stage.cgroup), str(stage.base)]
    command = [sys.executable, "-c", COMMAND, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read(5) == b"ready"
        process.stdin.write(b"x")
        process.stdin.flush()
        began = time.monotonic()
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.kill()
        return time.monotonic() - began
