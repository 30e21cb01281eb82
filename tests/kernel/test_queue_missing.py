"""What a queue takes and a machine may lack: the limit is policed then, `throttle` and `list` say why."""

from collections.abc import Callable
from typing import Any

import pytest

from chadthrottle.bpf.errors import NotSupportedError
from chadthrottle.enforce.queue import place
from chadthrottle.errors import ChadthrottleError, KernelCannotError, NotPermittedError
from chadthrottle.model import Engine
from chadthrottle.netlink import Links, TrafficControl
from tests.support.queued import (
    DEVICE,
    goes_through_queue,
    ip,
    notes,
    recorded,
    require_limited,
    traffic_control,
)
from tests.support.throttled import Scene


def refuse(error: Callable[[], ChadthrottleError]) -> Callable[..., Any]:
    def refused(*_: object, **__: object) -> None:
        raise error()

    return refused


NO_IFB = (Links, "add_ifb", lambda: KernelCannotError("cannot make the device chadthrottle (ifb): unknown kind"))
NO_HTB = (TrafficControl, "make_htb", lambda: KernelCannotError("cannot make an HTB qdisc: unknown kind"))
NO_TBF = (TrafficControl, "set_bulk_leaf", lambda: KernelCannotError("cannot make a tbf qdisc: unknown kind"))
NO_CLSACT = (TrafficControl, "add_clsact", lambda: KernelCannotError("cannot make a clsact qdisc: unknown kind"))
NO_TCX = (place, "attach_tcx", lambda: NotSupportedError("attaching to a network device", "6.6"))
FORBIDDEN = (Links, "add_ifb", lambda: NotPermittedError("cannot make the device chadthrottle (ifb): not permitted"))

LACKING: dict[str, tuple[list[Any], str, str]] = {
    "ifb": ([NO_IFB], "unknown kind", "this kernel, or this machine's set-up, made no queue"),
    "HTB": ([NO_HTB], "unknown kind", "this kernel, or this machine's set-up, made no queue"),
    "tbf": ([NO_TBF], "unknown kind", "this kernel, or this machine's set-up, made no queue"),
    "tcx and clsact": ([NO_TCX, NO_CLSACT], "unknown kind", "this kernel, or this machine's set-up, made no queue"),
    "permission": ([FORBIDDEN], "not permitted", "a queue was not permitted"),
}


@pytest.mark.parametrize("what", LACKING)
def test_without_it_downloads_are_policed(what: str, stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, told, listed = LACKING[what]
    for owner, name, error in parts:
        monkeypatch.setattr(owner, name, refuse(error))
    before = traffic_control(stage.here)
    program = stage.start()
    program.busy_download()
    with pytest.raises((KernelCannotError, NotPermittedError), match=told):
        stage.throttle(program, engine=Engine.QUEUE)
    assert not stage.base.exists()
    done = stage.throttle(program)
    assert told in " ".join(done.notes)
    assert listed in " ".join(stage.listing().notes)
    assert traffic_control(stage.here) == before
    assert recorded(stage) == []
    require_limited(stage, program)


def test_without_tcx_a_filter_does_it(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clsact of our own, which goes with it."""
    before = traffic_control(stage.here)
    owner, name, error = NO_TCX
    monkeypatch.setattr(owner, name, refuse(error))
    program = stage.start()
    program.busy_download()
    assert stage.throttle(program).notes == ()
    assert goes_through_queue(stage, program) == 1
    assert [each.by_link for each in recorded(stage) if each.ifindex] == [0]
    stage.release()
    assert traffic_control(stage.here) == before


def test_queued_again_once_it_is_there(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    program = stage.start()
    program.busy_download()
    with monkeypatch.context() as patch:
        owner, name, error = NO_IFB
        patch.setattr(owner, name, refuse(error))
        stage.throttle(program)
    assert stage.throttle(program).notes == ()
    assert notes(stage) == []
    assert goes_through_queue(stage, program) == 1


def test_what_cannot_be_repaired_keeps_nobody_else_from_a_limit(stage: Scene) -> None:
    """Somebody took away the queue's device, and calls one of their own by its name."""
    first, second = stage.start(), stage.start()
    for each in first, second:
        each.busy_download()
    stage.throttle(first)
    ip(stage.here, "link", "del", DEVICE)
    ip(stage.here, "link", "add", DEVICE, "type", "veth", "peer", "name", "other")
    said = stage.throttle(second).notes
    assert any("cannot be repaired" in each and "of another kind" in each for each in said)
    assert any("policed, not queued" in each for each in said)
    require_limited(stage, first)
    require_limited(stage, second)
    stage.release(first)
    assert recorded(stage) == []
    ip(stage.here, "link", "del", DEVICE)
    assert stage.throttle(second).notes == ()
    assert goes_through_queue(stage, second) == 1
