"""doctor, permissions: what a set of capabilities amounts to, and what files say."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from chadthrottle.doctor import security
from chadthrottle.doctor.check import Context
from chadthrottle.doctor.consequences import EVERYTHING
from chadthrottle.doctor.finding import Need, Status
from chadthrottle.doctor.permissions import _lost, without
from chadthrottle.doctor.security import chosen
from chadthrottle.procs.capabilities import NEEDED

ALL = sum(1 << bit for bit in NEEDED.values())


def having(*lacking: str) -> int:
    return ALL & ~sum(1 << NEEDED[name] for name in lacking)


@pytest.mark.parametrize(
    ("lacking", "told"),
    [
        ((), []),
        # CAP_SYS_ADMIN stands in for them
        (("CAP_BPF", "CAP_PERFMON"), []),
        # … but not where devices are made
        (("CAP_NET_ADMIN",), ["CAP_NET_ADMIN"]),
        (("CAP_SYS_ADMIN",), ["CAP_SYS_ADMIN"]),
        (("CAP_SYS_ADMIN", "CAP_BPF"), ["CAP_SYS_ADMIN", "CAP_BPF"]),
        (("CAP_SYS_ADMIN", "CAP_NET_ADMIN"), ["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]),
        (("CAP_SYS_PTRACE",), ["CAP_SYS_PTRACE"]),
        (tuple(NEEDED), list(NEEDED)),
    ],
)
def test_what_is_missing(lacking: tuple[str, ...], told: list[str]) -> None:
    assert without(having(*lacking)) == told


def test_what_is_lost_with_it() -> None:
    assert _lost(["CAP_SYS_ADMIN", "CAP_BPF"]) == EVERYTHING
    assert _lost(["CAP_NET_ADMIN"]) == {Need.NETWORK, Need.QUEUE}
    assert Need.BPF not in _lost(["CAP_SYS_PTRACE"])


@pytest.mark.parametrize(
    ("mode", "refuses", "status"),
    [
        ("none", True, Status.OK),
        ("integrity", True, Status.OK),
        ("confidentiality", False, Status.OK),
        ("confidentiality", True, Status.FAILED),
    ],
)
def test_lockdown(mode: str, refuses: bool, status: Status, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lockdown ends with a reboot only, so it is not made for real."""
    (tmp_path / "lockdown").write_text(f"[{mode}]\n", encoding="ascii")
    monkeypatch.setattr(security, "_SECURITYFS", tmp_path)
    monkeypatch.setattr(security, "_refuses_reading", lambda: refuses)
    outcome = security.LOCKDOWN.run(Context(base=Path("/"), stack=ExitStack()))
    assert outcome.status is status
    assert (Need.OUR_OBJECTS in outcome.blocks) == (status is Status.FAILED)


def test_what_is_chosen() -> None:
    assert chosen("none [integrity] confidentiality\n") == "integrity"
    assert chosen("[none] integrity confidentiality\n") == "none"
    assert chosen("something else\n") == "something else"
