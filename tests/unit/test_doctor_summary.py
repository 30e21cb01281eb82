"""What works, in sentences that say no more than was tried."""

from contextlib import ExitStack
from pathlib import Path

from chadthrottle.doctor.check import Context
from chadthrottle.doctor.finding import Finding, Group, Outcome, failed, ok, unknown, warning
from chadthrottle.doctor.summary import what_works

REFUSED = failed("no", tried="it", came_back="EPERM", means="no", cure=("sudo do",))
GOOD = {
    "CT-ENF-01": ok("IFB, HTB and tbf can be made"),
    "CT-ENF-02": ok("a process was limited"),
    "CT-ENF-04": ok("asked 4 MB/s = 32 Mbit/s, achieved 3.96 MB/s (99%), paced"),
    "CT-ENF-05": ok("asked 4 MB/s = 32 Mbit/s, achieved 3.99 MB/s (100%), queued"),
    "CT-ATTACH-02": ok("counted and dropped"),
    "CT-ATTACH-04": ok("counted and dropped"),
    "CT-ATTACH-07": ok("counted and dropped"),
    "CT-ATTACH-08": ok("counted and dropped"),
}


def told(**changed: Outcome) -> tuple[str, ...]:
    found = GOOD | {name.replace("_", "-"): outcome for name, outcome in changed.items()}
    context = Context(base=Path("/nowhere"), stack=ExitStack())
    context.findings += [Finding(name, Group.DOCTOR, "", outcome) for name, outcome in found.items()]
    return what_works(context)


def test_all_works() -> None:
    assert told() == (
        "Uploads: limited; TCP is paced, whatever else is policed (99% of what was asked).",
        "Downloads: limited, in a queue that loses nothing on the way (100% of what was asked).",
        "Attaching: by link and without one (legacy) at the root cgroup, the default and at one of doctor's making.",
    )


def test_policed() -> None:
    _, downloads, _ = told(CT_ENF_05=warning("asked x, achieved y (91%), policed", means="z"))
    assert downloads == "Downloads: limited by dropping packets, not queued (91% of what was asked); see CT-ENF-01."


def test_root_refuses() -> None:
    *_, attaching = told(CT_ATTACH_07=REFUSED, CT_ATTACH_08=unknown("x", because="CT-ATTACH-07"))
    assert "not possible at the root cgroup" in attaching
    assert "by link and without one (legacy) at one of doctor's making" in attaching


def test_one_way_refuses() -> None:
    *_, attaching = told(CT_ATTACH_08=REFUSED)
    assert "by link, not without one (legacy), at the root cgroup" in attaching


def test_nothing_can_be_limited() -> None:
    uploads, downloads, _ = told(CT_ENF_02=REFUSED)
    assert uploads == "Uploads: no limit can be set here, see CT-ENF-02."
    assert downloads == "Downloads: no limit can be set here, see CT-ENF-02. A queue could be made."


def test_not_tried() -> None:
    uploads, *_ = told(CT_ENF_02=unknown("not tried", because="CT-PERM-02"))
    assert uploads == "Uploads: could not be tried, because of CT-PERM-02."


def test_not_measured() -> None:
    uploads, downloads, _ = told(CT_ENF_04=unknown("no"), CT_ENF_05=unknown("no"))
    assert uploads == "Uploads: limited, but not measured."
    assert downloads == "Downloads: limited, but not measured."
