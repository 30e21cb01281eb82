"""How a queued limit ends: nothing of its program enters the queue any more, others' limits go on."""

import time

from chadthrottle.model import Direction
from tests.support.patience import patient
from tests.support.queued import DEVICE, classes, links_pinned, require_free, require_queued, traffic_control
from tests.support.rates import gets_faster, within
from tests.support.throttled import LIMIT, Program, Scene


def limited_download(stage: Scene, **more: int) -> Program:
    program = stage.start()
    program.busy_download()
    stage.throttle(program, **more)
    return program


def test_expired_rule_is_out_of_the_queue_by_itself(stage: Scene) -> None:
    lasts_s = int(patient(2))  # longer than the next command takes
    program = limited_download(stage, duration_s=lasts_s)
    kept = limited_download(stage)
    time.sleep(lasts_s)
    require_free(program, 2)
    assert len(classes(stage.here)) == 10
    stage.throttle(kept)  # sweeps
    assert len(classes(stage.here)) == 5
    require_queued(stage, kept)


def test_classes_of_a_dead_program_go_with_the_next_command(stage: Scene) -> None:
    program = limited_download(stage)
    kept = limited_download(stage)
    program.kill()
    assert within(2, lambda: stage.limited() == {kept.pid})
    stage.throttle(kept)
    assert len(classes(stage.here)) == 5
    require_queued(stage, kept)


def test_released_rule_leaves_the_other_exact(stage: Scene) -> None:
    program, kept = limited_download(stage), limited_download(stage)
    stage.release(program)
    require_free(program, 2)
    assert len(classes(stage.here)) == 5
    require_queued(stage, kept)


def test_last_queued_rule_takes_the_queue_with_it(stage: Scene) -> None:
    """Though a limit without a queue stays."""
    nothing = traffic_control(stage.here)
    stage.throttle(stage.start(), down=None)
    program = limited_download(stage)
    assert DEVICE in traffic_control(stage.here)
    stage.release(program)
    assert traffic_control(stage.here) == nothing
    assert not links_pinned(stage)
    require_free(program, 2)


def test_released_direction_is_free(stage: Scene) -> None:
    nothing = traffic_control(stage.here)
    program = limited_download(stage)
    stage.release(program, directions=frozenset({Direction.DOWN}))
    assert stage.limited() == {program.pid}
    assert traffic_control(stage.here) == nothing
    require_free(program, 2)


def test_changed_rate_is_the_new_one(stage: Scene) -> None:
    program = limited_download(stage, down=LIMIT // 4)
    stage.throttle(program, down=3 * LIMIT)
    assert gets_faster(program.received, 2 * LIMIT, 3)
    stage.throttle(program)
    require_queued(stage, program)


def test_number_of_an_ended_rule_serves_the_next(stage: Scene) -> None:
    """What the one left on its sockets means nothing to the other."""
    first = limited_download(stage)
    kept = limited_download(stage)
    before = classes(stage.here)
    stage.release(first)
    second = limited_download(stage)
    assert classes(stage.here) == before
    require_free(first, 2)
    require_queued(stage, second)
    require_queued(stage, kept)
