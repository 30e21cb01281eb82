"""Many limits at once, and more than there are class numbers for."""

import subprocess
import time
from contextlib import ExitStack

import pytest

from chadthrottle import limits
from chadthrottle.abi import ThrottleDirection, ThrottleRule
from chadthrottle.bpf.constants import ElemFlag
from chadthrottle.enforce import rules
from chadthrottle.enforce.queue import queues
from chadthrottle.errors import KernelCannotError
from chadthrottle.limits.meters import hooks_in_place
from chadthrottle.model import Engine
from tests.support.patience import FACTOR, patient
from tests.support.queued import classes, notes, require_limited, traffic_control
from tests.support.throttled import LIMIT, Scene

pytestmark = pytest.mark.long

RULES = 200 if FACTOR == 1 else 40


def test_hundreds_of_rules_have_a_class_each(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = traffic_control(stage.here)
    with ExitStack() as stack:
        pids = []
        for _ in range(RULES):
            process = subprocess.Popen(stage.here.command("sleep", "600"))
            stack.callback(process.wait)
            stack.callback(process.kill)
            pids.append(process.pid)
        limits.throttle(stage.spec(pids[0], up=None), stage.base)
        with monkeypatch.context() as patch:
            patch.setattr(rules, "sweep", lambda _: ())
            for pid in pids[1:-10]:
                limits.throttle(stage.spec(pid, up=None, engine=Engine.CGROUP), stage.base)
        number_all(stage)
        longest = 0.0
        for pid in pids[-10:]:
            began = time.monotonic()
            done = limits.throttle(stage.spec(pid, up=None), stage.base)
            longest = max(longest, time.monotonic() - began)
            assert done.state.down is not None
            assert done.state.down.engine is Engine.QUEUE
        assert len(classes(stage.here)) == 5 * RULES
        assert longest < patient(2), longest
        limits.release(pids[:1], base=stage.base)
        assert len(classes(stage.here)) == 5 * (RULES - 1)
        began = time.monotonic()
        stage.release()
        assert time.monotonic() - began < patient(10)
    assert traffic_control(stage.here) == nothing


def number_all(stage: Scene) -> None:
    """Rules that are policed are to be queued, as if by commands that were killed: the next one makes their classes.
    By a command each they would take a quarter of a minute.
    """
    with hooks_in_place(stage.base) as hooks:
        assert hooks is not None
        for number, (key, value) in enumerate(sorted(hooks.rules.items()), start=1):
            rule = ThrottleRule.from_buffer_copy(value)
            rule.queue, rule.queued = number, 1 << ThrottleDirection.DOWN
            hooks.rules.update(key, bytes(rule), ElemFlag.BPF_EXIST)


def test_more_rules_than_numbers(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one too many is policed, and says so; for whom that is not enough, it is refused."""
    monkeypatch.setattr(queues, "THROTTLE_MAX_QUEUES", 2)
    first, second = stage.start(), stage.start()
    stage.throttle(first)
    stage.throttle(second)
    third = stage.start()
    third.busy_download()
    with pytest.raises(KernelCannotError, match="2 rules are queued already"):
        stage.throttle(third, engine=Engine.QUEUE)
    assert stage.limited() == {first.pid, second.pid}
    done = stage.throttle(third)
    assert "2 rules are queued already" in " ".join(done.notes)
    assert done.state.down is not None
    assert done.state.down.engine is Engine.CGROUP
    require_limited(stage, third)
    assert "too many limits were queued" in " ".join(stage.listing().notes)
    stage.release(first)
    done = stage.throttle(third, down=2 * LIMIT)  # there is room now
    assert done.state.down is not None
    assert done.state.down.engine is Engine.QUEUE
    assert notes(stage) == []
