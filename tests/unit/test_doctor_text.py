"""How findings are told to people, and as JSON."""

import json

import pytest

from chadthrottle.cli.doctor_text import as_json, as_text
from chadthrottle.doctor.finding import Finding, Group, Outcome, Report, failed, ok, unknown, warning

SPOILED = failed(
    "nothing can be attached",
    tried="link_create",
    came_back="EPERM",
    means="an exclusive program sits above",
    cure=(
        "sudo bpftool cgroup detach /sys/fs/cgroup/a/very/long/path/that/does/not/fit ingress id 4711 exclusive",
        "x",
    ),
    details=("a line of the verifier",),
)
ODD = warning("downloads are policed", means="packets are dropped", cure=("sudo modprobe ifb",))


def report(*outcomes: Outcome) -> Report:
    findings = tuple(
        Finding(f"CT-ATTACH-{number:02}", Group.ATTACH, "the root", outcome)
        for number, outcome in enumerate(outcomes, 1)
    )
    return Report(findings, ("Uploads work.",))


def test_what_is_fine_takes_one_line() -> None:
    text = as_text(report(ok("as it should be"), ok("as well")), verbose=False)
    assert text.splitlines() == ["attach", "  ok       2 checks", "", "Uploads work.", "Nothing is wrong."]
    assert "CT-ATTACH-01" in as_text(report(ok("as it should be")), verbose=True)


def test_what_was_removed_is_told() -> None:
    assert "removed, as --fix" in as_text(report(ok("removed, as --fix asked for: x"), ok("y")), verbose=False)


def test_what_is_wrong_is_told_in_full() -> None:
    text = as_text(report(ok("fine"), SPOILED), verbose=False)
    for word in ("FAILED", "CT-ATTACH-02", "link_create", "EPERM", "an exclusive program", "Wrong: CT-ATTACH-02."):
        assert word in text
    assert "| a line of the verifier" not in text
    assert "| a line of the verifier" in as_text(report(SPOILED), verbose=True)


def test_commands_can_be_copied() -> None:
    (line,) = (line for line in as_text(report(SPOILED), verbose=False).splitlines() if "sudo" in line)
    assert line.strip() == SPOILED.cure[0]


def test_everything_else_fits_80_columns() -> None:
    long = ok("word " * 60)
    for verbose in False, True:
        for line in as_text(report(long, SPOILED, ODD, unknown("word " * 40)), verbose=verbose).splitlines():
            assert len(line) <= 80 or "sudo" in line


def test_what_follows_is_told_once() -> None:
    follows = unknown("not tried", because="CT-ATTACH-01")
    text = as_text(report(SPOILED, follows, follows), verbose=False)
    assert "not tried because of CT-ATTACH-01: CT-ATTACH-02, CT-ATTACH-03" in text
    assert "Could not be told" not in text


@pytest.mark.parametrize("outcome", [SPOILED, ODD])
def test_quiet_tells_what_is_wrong_alone(outcome: Outcome) -> None:
    assert "fine" not in as_text(report(ok("fine"), outcome), verbose=False, quiet=True)
    assert outcome.summary in as_text(report(ok("fine"), outcome), verbose=False, quiet=True)
    assert "attach" not in as_text(report(ok("fine")), verbose=False, quiet=True).splitlines()


def test_as_json() -> None:
    answer = json.loads(as_json(report(SPOILED, ok("fine"))))
    assert answer["schema"] == 1
    assert answer["exit_code"] == 5
    assert answer["works"] == ["Uploads work."]
    assert answer["findings"][0] == {
        "id": "CT-ATTACH-01",
        "group": "attach",
        "what": "the root",
        "status": "failed",
        "summary": "nothing can be attached",
        "tried": "link_create",
        "came_back": "EPERM",
        "means": "an exclusive program sits above",
        "cure": list(SPOILED.cure),
        "because": None,
        "details": ["a line of the verifier"],
    }
