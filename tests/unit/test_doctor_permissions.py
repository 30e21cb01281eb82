"""doctor, permissions: what a set of capabilities amounts to, and what files say."""

import pytest

from chadthrottle.doctor.consequences import EVERYTHING
from chadthrottle.doctor.finding import Need
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


def test_what_is_chosen() -> None:
    assert chosen("none [integrity] confidentiality\n") == "integrity"
    assert chosen("[none] integrity confidentiality\n") == "none"
    assert chosen("something else\n") == "something else"
