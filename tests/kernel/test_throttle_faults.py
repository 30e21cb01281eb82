"""What a command leaves when a step of it fails, or when it is killed: nothing that `list` does not show."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
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
from tests.support.killed import Killer, killer
from tests.support.leftovers import Dying, Machine
from tests.support.rates import gets_faster
from tests.support.throttled import LIMIT, Program, Scene

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
    return gets_faster(program.sent, 5 * LIMIT, 1, seconds=0.1)


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
    before, kernel_before, dying = state_of(stage), Machine.now(), Dying()
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
        assert dying.after(f"a failure at call {number}", kernel_before) == []
    assert dying.rest() == []
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


@pytest.mark.parametrize("action", ["throttle", "release"])
def test_killed_at_any_instant(action: str, stage: Scene) -> None:
    program = stage.start()
    program.busy_upload()
    seen = set()
    dice = random.Random(9)
    with killer(stage) as command:
        run = command.release if action == "release" else partial(command.throttle, program)
        if action == "release":
            stage.throttle(program)
        whole_s = run().ran_s
        stage.release()
        for _ in range(20):
            if action == "release":
                stage.throttle(program)
            run(after_s=dice.random() * whole_s * 1.1)
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
    print(f"\nkilled within {whole_s * 1000:.0f} ms; limited or not: {sorted(seen)}")


def test_two_commands_at_once(stage: Scene) -> None:
    """Each for another process, none lost."""
    programs = [stage.start() for _ in range(6)]
    with ExitStack() as stack, ThreadPoolExecutor(len(programs)) as pool:
        commands = [stack.enter_context(killer(stage)) for _ in programs]
        assert not any(pool.map(Killer.throttle, commands, programs)), "none was to be killed"
    assert stage.limited() == {program.pid for program in programs}
    assert limits.release(None, base=stage.base).hooks_removed
