"""doctor, attach: from how a trial ended to a finding; what others left is told from what is still used."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from chadthrottle.bpf.errors import AttachError, BpfError, NotSupportedError
from chadthrottle.doctor import trial_guard
from chadthrottle.doctor.finding import Need, Outcome, Status, ok
from chadthrottle.doctor.trial_place import Place
from chadthrottle.doctor.trial_steps import NoNetworkError, StepError, counted, step
from chadthrottle.doctor.trial_verdict import as_warning, verdict
from chadthrottle.errors import ChadthrottleError

BLOCKS = frozenset({Need.LEAF})


def judged(error: Exception, path: Path = Path("/")) -> Outcome:
    return verdict(raising(error), Place("the place", path, BLOCKS, ("Do that.",)), "link", pid=7)


def raising(error: Exception) -> Callable[[], list[str]]:
    def run() -> NoReturn:
        raise error

    return run


def test_what_works_is_ok_with_what_was_seen() -> None:
    outcome = verdict(lambda: ["read"], Place("the place", Path("/"), BLOCKS, ()), "link", details=("swept",))
    assert outcome == ok("works", details=("swept", "read"))


def test_a_refusal_names_step_errno_and_the_hints_commands() -> None:
    hint = "Attached so. Attach elsewhere, or detach it:\n  bpftool cgroup detach / cgroup_inet_egress id 7"
    refused = AttachError("BPF_LINK_CREATE", errno.EPERM, "link_create on /: EPERM: an exclusive program", hint=hint)
    with pytest.raises(StepError) as raised, step("link_create(flags 0)"):
        raise refused
    outcome = judged(raised.value)
    assert outcome.status is Status.FAILED
    assert outcome.summary == "link_create(flags 0) is refused on the place"
    assert outcome.came_back == "EPERM at link_create(flags 0)"
    assert outcome.means == "an exclusive program"
    assert outcome.cure[1:] == ("sudo bpftool cgroup detach / cgroup_inet_egress id 7", "Do that.")
    assert outcome.blocks == BLOCKS
    assert not outcome.permission


def test_a_missing_capability_is_a_matter_of_permission() -> None:
    refused = BpfError("BPF_PROG_LOAD", errno.EPERM, hint="This process lacks CAP_BPF: run it with sudo.")
    refused.exit_code = 3
    outcome = judged(refused)
    assert outcome.permission
    assert "EPERM" in outcome.came_back
    assert outcome.cure[0] == "This process lacks CAP_BPF: run it with sudo."


def test_a_cgroup_that_is_gone_is_the_cause_whatever_came_back() -> None:
    outcome = judged(ChadthrottleError("process 7 was killed"), Path("/nowhere/at/all"))
    assert outcome.summary == "the place was removed while it was tried"
    assert outcome.cure[-1] == "sudo chadthrottle doctor 7"


def test_without_a_network_nothing_is_said_of_packets() -> None:
    assert judged(NoNetworkError("cannot make a network namespace")).status is Status.UNKNOWN


def test_no_links_is_no_attach_error() -> None:
    with pytest.raises(StepError, match=r"5\.7"), step("link_create(flags 0)"):
        raise NotSupportedError("BPF links", "5.7")


def test_what_limits_can_do_without_is_a_warning() -> None:
    outcome = as_warning(judged(StepError("prog_attach", "EPERM", "no")), "Links work", "Leave it.")
    assert (outcome.status, outcome.blocks) == (Status.WARNING, frozenset())
    assert outcome.means == "no. Links work"
    assert outcome.cure[0] == "Leave it."
    assert as_warning(ok("works"), "Links work") == ok("works")


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        (bytes(32), "count on egress"),
        (b"\x03".ljust(8, b"\0") + bytes(24), "drop on egress|count on ingress"),
        (None, "count on egress"),
    ],
)
def test_programs_that_see_nothing_or_are_not_obeyed(value: bytes | None, wrong: str) -> None:
    with pytest.raises(StepError, match=wrong):
        counted(value)


def test_cgroups_of_doctors_that_ended_are_told_from_those_in_use(tmp_path: Path) -> None:
    mine = trial_guard.own_name()
    pid, ticks = mine.removeprefix("chadthrottle-doctor-").split("-")
    assert int(pid) == os.getpid()
    gone = f"chadthrottle-doctor-{pid}-{int(ticks) + 1}", "chadthrottle-doctor-4194305-1"
    others = f"chadthrottle-doctor-{pid}-made", "chadthrottle-doctor-x-1"
    assert [trial_guard._is_orphan(tmp_path / name) for name in (mine, *gone, *others)] == [
        False, True, True, False, False,
    ]  # fmt: skip
