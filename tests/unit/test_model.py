"""The data every layer shares, and the JSON that scripts will rely on."""

import json
from typing import get_args

import pytest

from chadthrottle.bpf import cgroup_link
from chadthrottle.model import (
    AttachedBy,
    AttachMethod,
    AttachPoint,
    Direction,
    DirectionState,
    Engine,
    ProcessIdentity,
    RuleSpec,
    RuleState,
    Scope,
    to_json,
)

CURL = ProcessIdentity(pid=4242, start_time_ticks=123_456, name="curl")
UP = DirectionState(
    engine=Engine.CGROUP,
    asked_bytes_per_s=1_250_000,
    achieved_bytes_per_s=1_246_000,
    dropped_packets=3,
    marked_packets=2,
    retransmitted_packets=1,
)


def test_directions_and_hooks() -> None:
    assert [(direction.value, direction.hook) for direction in Direction] == [("up", "egress"), ("down", "ingress")]


def test_attach_methods_are_the_runtimes() -> None:
    assert AttachMethod == cgroup_link.AttachMethod
    assert set(get_args(AttachedBy)) == set(get_args(AttachMethod)) - {"auto"}


def test_a_process_is_its_number_and_its_start() -> None:
    assert ProcessIdentity(4242, 123_456, "renamed") == CURL
    assert hash(ProcessIdentity(4242, 123_456, "renamed")) == hash(CURL)
    assert ProcessIdentity(4242, 123_457, "curl") != CURL
    assert ProcessIdentity(4243, 123_456, "curl") != CURL


@pytest.mark.parametrize("at", ["root", "leaf", "/", "/sys/fs/cgroup/system.slice"])
def test_attach_points(at: str) -> None:
    assert str(AttachPoint(at)) == at


@pytest.mark.parametrize("at", ["", "Root", "leaf ", "system.slice", "./a", "../a"])
def test_no_attach_points(at: str) -> None:
    with pytest.raises(ValueError, match="absolute path"):
        AttachPoint(at)


def test_named_attach_points() -> None:
    assert AttachPoint("root") == AttachPoint.ROOT
    assert AttachPoint("leaf") == AttachPoint.LEAF
    assert AttachPoint.ROOT != AttachPoint.LEAF


def test_a_rule_limits_something() -> None:
    with pytest.raises(ValueError, match="at least one direction"):
        RuleSpec(process=CURL)


def test_rates_by_direction() -> None:
    spec = RuleSpec(process=CURL, rate_down_bytes_per_s=1000)
    assert spec.rate_bytes_per_s(Direction.UP) is None
    assert spec.rate_bytes_per_s(Direction.DOWN) == 1000
    assert RuleSpec(process=CURL, rate_up_bytes_per_s=2000).rate_bytes_per_s(Direction.UP) == 2000


def test_state_by_direction() -> None:
    state = RuleState(process=CURL, up=None, down=UP, attached_by="link", at=AttachPoint.ROOT)
    assert state.direction(Direction.UP) is None
    assert state.direction(Direction.DOWN) is UP


def test_the_json_of_list() -> None:
    """Pinned down: scripts read it. New keys may join, these stay."""
    down = DirectionState(
        engine=Engine.QUEUE, asked_bytes_per_s=1000, achieved_bytes_per_s=None, policed_share=0.123456
    )
    both = RuleState(process=CURL, up=UP, down=down, attached_by="link", at=AttachPoint.ROOT)
    only_up = RuleState(
        process=ProcessIdentity(1000, 5, "bad \udcff name"),
        up=UP,
        down=None,
        attached_by="legacy",
        at=AttachPoint("/sys/fs/cgroup/a"),
        children=False,
        scope=Scope.INTERNET,
        held_by=77,
        remaining_s=90,
    )
    up = {
        "asked_bytes_per_s": 1_250_000,
        "achieved_bytes_per_s": 1_246_000,
        "dropped_packets": 3,
        "marked_packets": 2,
        "retransmitted_packets": 1,
        "policed_share": None,
    }
    printed = json.dumps(to_json([both, only_up], notes=["Hooks idle."]))
    assert json.loads(printed) == {
        "schema": 1,
        "rules": [
            {
                "pid": 4242,
                "start_time": 123_456,
                "name": "curl",
                "up": up,
                "down": {
                    "asked_bytes_per_s": 1000,
                    "achieved_bytes_per_s": None,
                    "dropped_packets": 0,
                    "marked_packets": 0,
                    "retransmitted_packets": 0,
                    "policed_share": 0.1235,
                },
                "engine": {"up": "cgroup", "down": "queue"},
                "attach": {"method": "link", "at": "root"},
                "children": True,
                "scope": "all",
                "held_by": None,
                "remaining_s": None,
            },
            {
                "pid": 1000,
                "start_time": 5,
                "name": "bad \udcff name",
                "up": up,
                "down": None,
                "engine": {"up": "cgroup", "down": None},
                "attach": {"method": "legacy", "at": "/sys/fs/cgroup/a"},
                "children": False,
                "scope": "internet",
                "held_by": 77,
                "remaining_s": 90,
            },
        ],
        "notes": ["Hooks idle."],
    }
    # JSON goes through pipes of any encoding, whatever a process calls itself.
    assert printed.isascii()


def test_the_json_of_an_empty_list() -> None:
    assert to_json([]) == {"schema": 1, "rules": [], "notes": []}
