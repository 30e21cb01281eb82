"""doctor, system: what is read, and what is made of it."""

import errno
from contextlib import ExitStack
from pathlib import Path

import pytest

from chadthrottle.bpf import features
from chadthrottle.bpf.features import Support, TrialResult
from chadthrottle.bpf.kconfig import Kconfig
from chadthrottle.doctor import resource_limits
from chadthrottle.doctor.check import Context
from chadthrottle.doctor.finding import Status
from chadthrottle.doctor.kernel_config import OPTIONS, missing
from chadthrottle.doctor.kernel_log import after_the_trap, in_use, lines_about
from chadthrottle.doctor.neighbours import enabled, table_names, version_of
from chadthrottle.doctor.network_settings import about_jit

CGROUPS = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\nnet_cls\t{}\t4\t1\nnet_prio\t{}\t4\t1\n"


def test_what_is_missing_in_a_configuration() -> None:
    lines = [f"{name}={'ym'[number % 2]}" for number, name in enumerate(OPTIONS)]
    assert missing(Kconfig("\n".join(lines), "here")) == []
    lines[3] = f"# {OPTIONS[3]} is not set"
    assert missing(Kconfig("\n".join(lines), "here")) == [OPTIONS[3]]


def test_a_longer_option_is_another_one() -> None:
    assert "CONFIG_BPF" in missing(Kconfig("CONFIG_BPF_SYSCALL=y\nCONFIG_BPF_JIT_ALWAYS_ON=y\n", "here"))


def test_lines_of_the_log() -> None:
    log = (
        "<6>[    0.1] Linux version 6.1\n<6>[    0.2] cgroup: Disabling memory control group subsystem\n"
        "<4>[    9.0] bpfilter: x\n<4>[    9.1] audit: prog-id=7 op=LOAD\n<3>[   10.0] BPF: [123] STRUCT y\n"
    )
    assert lines_about(log) == [
        "[    0.2] cgroup: Disabling memory control group subsystem",
        "[   10.0] BPF: [123] STRUCT y",
    ]


def test_which_old_controllers_are_in_use() -> None:
    assert in_use(CGROUPS.format(0, 0)) == []
    assert in_use(CGROUPS.format(7, 0)) == ["net_cls"]
    assert in_use(CGROUPS.format(7, 7)) == ["net_cls", "net_prio"]
    assert in_use("") == []


def test_what_became_of_the_trap() -> None:
    line = "[ 9.0] cgroup: disabling cgroup2 socket matching due to net_prio or net_cls activation"
    sprung = after_the_trap("net_cls", ["[ 1.0] cgroup: something else", line], "")
    assert sprung.status is Status.WARNING
    assert sprung.came_back == line
    assert sprung.cure
    assert after_the_trap("net_cls", ["[ 1.0] cgroup: something else"], "").status is Status.OK
    closed = after_the_trap("net_cls", None, "CT-PERM-02")
    assert (closed.status, closed.because) == (Status.UNKNOWN, "CT-PERM-02")


@pytest.mark.parametrize(
    ("charged", "number", "status"),
    [
        (Support.UNSUPPORTED, errno.EPERM, Status.FAILED),
        (Support.UNSUPPORTED, 0, Status.OK),
        (Support.UNSUPPORTED, errno.ENOMEM, Status.UNKNOWN),
        (Support.SUPPORTED, errno.EPERM, Status.OK),
    ],
)
def test_locked_memory(charged: Support, number: int, status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on kernels before 5.11, which charge it."""
    monkeypatch.setattr(features, "probe", lambda _: TrialResult(charged))
    monkeypatch.setattr(resource_limits, "_make_map", lambda _: number)
    outcome = resource_limits.LOCKED_MEMORY.run(Context(base=Path("/"), stack=ExitStack()))
    assert outcome.status is status
    assert bool(outcome.cure) == (status is Status.FAILED)


def test_the_version_of_systemd() -> None:
    assert version_of(["libsystemd-core-252.so", "libsystemd-shared-252.so"]) == "252"
    assert version_of(["libsystemd-shared-257.9-1.fc42.so"]) == "257.9-1.fc42"
    assert version_of([]) == ""


def test_whether_ufw_is_on() -> None:
    assert enabled("# ENABLED=yes would be on\nENABLED=yes\nLOGLEVEL=low\n")
    assert enabled('ENABLED="yes"')
    assert not enabled("#ENABLED=yes\nENABLED=no\n")


def test_a_table_of_nftables() -> None:
    name = b"filter\0\0"  # 7 bytes and padding
    # struct nfgenmsg; NFTA_TABLE_FLAGS; NFTA_TABLE_NAME
    message = b"\x02\0\0\0" + b"\x08\0\x02\0\0\0\0\0" + b"\x0b\0\x01\0" + name
    assert table_names(message) == ["ip filter"]
    assert table_names(message[:6]) == []
    assert table_names(b"\x63\0\0\0\0\0\0\0") == []


def test_programs_that_are_interpreted_are_a_warning() -> None:
    assert about_jit("0").status is Status.WARNING
    assert "bpf_jit_enable=1" in about_jit("0").cure[0]
    assert about_jit("1").status is Status.OK
    assert about_jit("2").status is Status.OK
