"""Commands that fail, or are killed, at any step of a queue's making or removal."""

import pytest

from chadthrottle.errors import KernelCannotError
from chadthrottle.model import Engine
from tests.support.killed import count_steps, killer
from tests.support.queued import (
    goes_through_queue,
    notes,
    recorded,
    require_free,
    require_queued,
    traffic_control,
    users_clsact,
)
from tests.support.throttled import LIMIT, Scene

pytestmark = pytest.mark.long

MOST_STEPS = 200


@pytest.mark.parametrize("clsact", [False, True], ids=["tcx", "clsact"])
def test_throttle_killed_at_every_step(clsact: bool, stage: Scene) -> None:
    """Whatever comes next, throttle or release, finds what it left."""
    if clsact:
        users_clsact(stage.here)
    before = traffic_control(stage.here)
    program = stage.start()
    program.busy_download()
    with killer(stage) as command:
        for step in range(1, MOST_STEPS, 2 if clsact else 1):  # they differ in a few
            killed = command.throttle(program, step, Engine.QUEUE)
            stage.listing()
            if killed and step % 3 == 0:
                done = stage.throttle(program)
                assert done.state.down is not None
                assert done.state.down.engine is Engine.QUEUE
                assert not done.notes
                assert not notes(stage)
            stage.release()
            assert traffic_control(stage.here) == before, f"after being killed at step {step}"
            assert not stage.base.exists()
            if not killed:
                assert step > 15
                break
    require_free(program)


def test_release_killed_at_every_step(stage: Scene) -> None:
    before = traffic_control(stage.here)
    program = stage.start()
    program.busy_download()
    with killer(stage) as command:
        for step in range(1, MOST_STEPS):
            stage.throttle(program, engine=Engine.QUEUE)
            killed = command.release(step)
            stage.listing()
            stage.release()
            assert traffic_control(stage.here) == before, f"after being killed at step {step}"
            assert not stage.base.exists()
            if not killed:
                assert step > 8
                break
    require_free(program)


def test_next_throttle_ends_a_killed_release(stage: Scene) -> None:
    program = stage.start()
    program.busy_download()
    with killer(stage) as command:
        for step in range(1, MOST_STEPS, 4):
            stage.throttle(program)
            if not command.release(step):
                break
            done = stage.throttle(program)
            assert not done.notes
            assert not notes(stage)
            assert goes_through_queue(stage, program, seconds=0.3) == 1


def fail(name: str) -> None:
    raise KernelCannotError(f"injected into {name}")


@pytest.mark.parametrize("clsact", [False, True], ids=["tcx", "clsact"])
def test_failing_at_any_step_auto_polices(clsact: bool, stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so, and leaves nothing of a queue."""
    if clsact:
        users_clsact(stage.here)
    before = traffic_control(stage.here)
    program = stage.start()
    for step in range(1, MOST_STEPS):
        with monkeypatch.context() as patch:
            steps = count_steps(patch.setattr, step, fail)
            try:
                done = stage.throttle(program)
            except KernelCannotError:
                # Of the hooks' own links, which have nothing to do with a queue.
                assert steps[-1] == "pin"
                assert not stage.base.exists()
                continue
            if len(steps) < step:
                break
        assert "injected" in " ".join(done.notes), steps
        assert done.state.down is not None
        assert done.state.down.engine is Engine.CGROUP
        assert traffic_control(stage.here) == before, steps
        assert recorded(stage) == []
        stage.release()
    assert step > 15
    (rule,) = stage.listing().rules
    assert rule.down is not None
    assert rule.down.engine is Engine.QUEUE


def test_failing_at_any_step_queue_changes_nothing(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    before = traffic_control(stage.here)
    program = stage.start()
    for step in range(1, MOST_STEPS):
        with monkeypatch.context() as patch:
            steps = count_steps(patch.setattr, step, fail)
            try:
                stage.throttle(program, engine=Engine.QUEUE)
            except KernelCannotError as error:
                assert "injected" in str(error)  # noqa: PT017 # which one is not known before
            else:
                assert len(steps) < step, steps
                break
        assert traffic_control(stage.here) == before, steps
        assert not stage.base.exists()
    assert step > 15


@pytest.mark.parametrize("engine", [Engine.AUTO, Engine.QUEUE], ids=str)
def test_failing_leaves_other_rules_queued(engine: Engine, stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    other = stage.start()
    other.busy_download()
    stage.throttle(other)
    program = stage.start()
    for step in range(1, MOST_STEPS):
        with monkeypatch.context() as patch:
            steps = count_steps(patch.setattr, step, fail)
            try:
                stage.throttle(program, engine=engine)
            except KernelCannotError:
                failed = True
            else:
                failed = False
            if len(steps) < step:
                break
        if failed:
            assert stage.limited() == {other.pid}
        told = [note for note in notes(stage) if str(program.pid) not in note]
        assert not told, steps
        assert len(recorded(stage)) == 2, steps  # the queue's own device, and veth0
        if program.pid in stage.limited():
            stage.release(program)
    assert goes_through_queue(stage, other) == 1
    assert step > 5


def test_failing_change_leaves_the_rule_as_it_was(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    program = stage.start()
    program.busy_download()
    stage.throttle(program)
    for step in range(1, MOST_STEPS):
        with monkeypatch.context() as patch:
            steps = count_steps(patch.setattr, step, fail)
            try:
                stage.throttle(program, down=LIMIT // 2, engine=Engine.QUEUE)
            except KernelCannotError:
                assert len(steps) >= step
            else:
                break
        (rule,) = stage.listing().rules
        assert rule.down is not None
        assert rule.down.asked_bytes_per_s == LIMIT
        assert rule.down.engine is Engine.QUEUE
        assert not notes(stage), steps
    stage.throttle(program)
    require_queued(stage, program)
