"""doctor, our objects: what a refusal of the verifier's is told as."""

import errno
from pathlib import Path

import pytest

from chadthrottle import artifacts
from chadthrottle.bpf.errors import VerifierError
from chadthrottle.doctor import objects
from chadthrottle.doctor.finding import Need, Status
from tests.support.objects import built_objects

LOG = "0: (b7) r0 = 2\n1: (95) exit\nAt program exit the register R0 has 2\nprocessed 2 insns (limit 1000000)\n"


@pytest.fixture(autouse=True)
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    built_objects("throttle", "queue", "traffic", "trial")
    monkeypatch.setattr(objects, "_compared", lambda: "a minimal program loads")


def refusal() -> VerifierError:
    return VerifierError("police", errno.EACCES, LOG, "the verifier refused it")


@pytest.mark.parametrize(
    ("name", "need"), [("throttle", Need.OUR_OBJECTS), ("trial", Need.OUR_OBJECTS), ("queue", Need.QUEUE)]
)
def test_a_refusal_tells_the_last_line_and_keeps_the_whole_log(name: str, need: Need) -> None:
    outcome = objects._refused(name, refusal())
    assert outcome.status is Status.FAILED
    assert outcome.came_back == "EACCES: At program exit the register R0 has 2"
    assert len(outcome.details) == 4
    assert outcome.blocks == {need}
    assert "police" in outcome.summary


def test_no_limit_needs_the_counters() -> None:
    outcome = objects._refused("traffic", refusal())
    assert (outcome.status, outcome.blocks) == (Status.WARNING, frozenset())


def test_an_installed_package_has_no_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(artifacts, "SOURCE_ROOT", tmp_path)
    outcome = objects._refused("trial", refusal())
    assert not any("make build" in line for line in outcome.cure)
    assert any("Install chadthrottle again" in line for line in outcome.cure)


def test_another_versions_object_lacks_a_program() -> None:
    outcome = objects._refused("throttle", KeyError("on_send"))
    assert outcome.came_back == "no program 'on_send'"
