"""What a command leaves when a step of it fails, or when it is killed: nothing that `list` does not show."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chadthrottle import limits
from chadthrottle.bpf import cgroup_link, iter_link, tracing_link
from chadthrottle.bpf.errors import BpfError
from chadthrottle.bpf.iter_link import IterLink
from chadthrottle.bpf.maps import Map
from chadthrottle.bpf.programs import Program as BpfProgram
from chadthrottle.enforce import namespaces
from chadthrottle.enforce.hooks import open_pinned, pins_of_this_version
from chadthrottle.model import Engine
from chadthrottle.pins import Stage, layout
from tests.support.leftovers import Machine
from tests.support.network import Endpoint
from tests.support.patience import patient
from tests.support.throttled import LIMIT, PROJECT, Program, Scene, scene

UNLIMITED_PACING = 0xFFFFFFFF

STEPS = {
    "attaching to the cgroup": (cgroup_link, "attach_cgroup"),
    "attaching to a tracepoint": (tracing_link, "attach_tp_btf"),
    "making an iterator": (iter_link, "attach_iter"),
    "pinning": (Stage, "pin"),
    "committing the pins": (layout, "rename"),
    "writing to a map": (Map, "update"),
    "reading a map": (Map, "lookup"),
    "reading an iterator": (IterLink, "read"),
    "entering processes": (BpfProgram, "call"),
    "entering a namespace": (namespaces, "_enter"),
}


class InjectedError(BpfError):
    """What the test lets fail."""

    def __init__(self) -> None:
        super().__init__("BPF_INJECTED", 12, "injected")


@pytest.fixture
def stage(netns_pair: tuple[Endpoint, Endpoint], leaf_cgroup: Path, bpffs: Path) -> Iterator[Scene]:
    with scene(netns_pair, leaf_cgroup, bpffs) as made:
        yield made


def fail_at(patch: pytest.MonkeyPatch, step: str, number: int) -> Callable[[], int]:
    """The call with this number fails; the others work. The result tells how many there were."""
    owner, name = STEPS[step]
    original = getattr(owner, name)
    calls = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise InjectedError
        return original(*arguments, **named)

    patch.setattr(owner, name, counted)
    return lambda: calls


def state_of(stage: Scene) -> object:
    """Rules, processes and rates, as they are in the kernel."""
    pins = pins_of_this_version(stage.base)
    with pins.lock(create=False) as there:
        if not there:
            return None
        with open_pinned(pins) as hooks:
            rates = {key: value[:40] for key, value in hooks.rules.items()}
            return rates, dict(hooks.processes.items()), set(hooks.meters.keys())


def sends_freely(program: Program) -> bool:
    for _ in range(10):
        before = program.sent()
        time.sleep(0.1)
        if program.sent() - before > 5 * LIMIT * 0.1:
            return True
    return False


@pytest.mark.parametrize("hooks", ["to be installed", "there already", "there, with this rule"])
@pytest.mark.parametrize("step", STEPS)
def test_failed_throttle_changes_nothing(step: str, hooks: str, stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a queue, whose failures are test_queue_faults.py's."""
    program = stage.start()
    program.busy_upload()
    if hooks == "there already":
        stage.throttle(stage.start(), engine=Engine.CGROUP)
    elif hooks == "there, with this rule":
        stage.throttle(program, up=None, down=LIMIT, engine=Engine.CGROUP)
    before, kernel_before = state_of(stage), Machine.now()
    for number in range(1, 100):
        with monkeypatch.context() as patch:
            calls = fail_at(patch, step, number)
            try:
                stage.throttle(program, up=LIMIT // 2, down=LIMIT // 2, engine=Engine.CGROUP)
            except InjectedError:
                assert calls() >= number
            else:
                assert calls() < number, "a failure was swallowed"
                break
        assert state_of(stage) == before
        assert program.pacing("up") == UNLIMITED_PACING
        assert kernel_before.additions() == []
    assert program.pid in stage.limited()
    stage.release(program)
    assert sends_freely(program)


@pytest.mark.parametrize(
    "step", ["writing to a map", "reading an iterator", "entering processes", "entering a namespace"]
)
def test_failed_release_limits_nobody(step: str, stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rule ends whatever fails; the next command does the rest."""
    program = stage.start()
    program.busy_upload()
    for number in range(1, 100):
        stage.throttle(program)
        with monkeypatch.context() as patch:
            calls = fail_at(patch, step, number)
            try:
                stage.release(program)
            except InjectedError:
                assert calls() >= number
            else:
                assert calls() < number, "a failure was swallowed"
                break
        assert stage.limited() == set()
        assert sends_freely(program)
        stage.release()
        assert program.pacing("up") == UNLIMITED_PACING
        assert not stage.base.exists()


COMMAND = """if True:
    import sys
    from pathlib import Path
    from chadthrottle import limits
    from chadthrottle.artifacts import object_path
    from chadthrottle.bpf import cgroup_link, iter_link, loader, parse, tracing_link
    from chadthrottle.model import AttachPoint, ProcessIdentity, RuleSpec

    action, pid, ticks, at, base = sys.argv[1:]
    sys.stdout.write("ready")
    sys.stdout.flush()
    sys.stdin.read(1)
    if action == "throttle":
        process = ProcessIdentity(int(pid), int(ticks), "killed")
        rate = 1_000_000
        limits.throttle(
            RuleSpec(process=process, rate_up_bytes_per_s=rate, rate_down_bytes_per_s=rate, at=AttachPoint(at)),
            Path(base),
        )
    else:
        limits.release(None, base=Path(base))
"""


def run_killed(stage: Scene, program: Program, action: str, after_s: float) -> float:
    """Run a command and kill it so long after it began, if it is not through; how long it ran."""
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
        while process.poll() is None:
            if time.monotonic() - began > after_s:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
            time.sleep(0.0005)
        return time.monotonic() - began


@pytest.mark.parametrize("action", ["throttle", "release"])
def test_killed_at_any_instant(action: str, stage: Scene) -> None:
    program = stage.start()
    program.busy_upload()
    if action == "release":
        stage.throttle(program)
    whole = run_killed(stage, program, action, patient(20))
    stage.release()
    seen = set()
    dice = random.Random(9)
    for _ in range(20):
        if action == "release":
            stage.throttle(program)
        run_killed(stage, program, action, dice.random() * whole * 1.1)
        found = stage.limited()
        seen.add(bool(found))
        if found:
            assert found == {program.pid}
        else:
            assert sends_freely(program)
        # The next command removes it all, and gives the connection back.
        stage.release()
        assert not stage.base.exists()
        assert program.pacing("up") == UNLIMITED_PACING
    assert sends_freely(program)
    print(f"\nkilled within {whole * 1000:.0f} ms; limited or not: {sorted(seen)}")


def test_two_commands_at_once(stage: Scene) -> None:
    """Each for another process, none lost."""
    programs = [stage.start() for _ in range(6)]
    commands = []
    for program in programs:
        spec = stage.spec(program.pid)
        words = ["throttle", str(program.pid), str(spec.process.start_time_ticks), str(stage.cgroup), str(stage.base)]
        commands.append(
            subprocess.Popen([sys.executable, "-c", COMMAND, *words], cwd=PROJECT, stdin=subprocess.DEVNULL)
        )
    assert [command.wait(patient(30)) for command in commands] == [0] * len(commands)
    assert stage.limited() == {program.pid for program in programs}
    assert limits.release(None, base=stage.base).hooks_removed
