"""doctor, permissions: each thing that a process may lack, made for real; it alone is named."""

import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chadthrottle.bpf.release import kernel_version
from tests.support.command import Command
from tests.support.doctor import diagnose, sleeping, without_root

SECURITYFS = "mount -t tmpfs ct-test-security /sys/kernel/security; "


@pytest.fixture
def child() -> Iterator[int]:
    """A program to ask about."""
    with sleeping() as pid:
        yield pid


def bounded(capabilities: str) -> tuple[str, ...]:
    return ("setpriv", f"--bounding-set={capabilities}", "--")


def confined(number: int, first_command: int = 0) -> tuple[str, ...]:
    """Under a seccomp filter that answers bpf(2) with this errno, as a container's profile does."""
    program = (
        "import os, sys; from tests.support.children import refuse_bpf; "
        f"refuse_bpf({number}, {first_command})(); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return (sys.executable, "-c", program)


def test_nothing_is_wrong(chadthrottle: Command) -> None:
    diagnose(chadthrottle).is_well("CT-PERM-01", "CT-PERM-02", "CT-PERM-03", "CT-PERM-04", "CT-PERM-05", "CT-PERM-06")


def test_what_sys_admin_stands_in_for_is_not_missed(chadthrottle: Command) -> None:
    found = diagnose(chadthrottle, wrapper=bounded("-bpf,-perfmon"))
    found.is_well("CT-PERM-03")
    assert "CAP_SYS_ADMIN stands in for CAP_BPF, CAP_PERFMON" in found.text("CT-PERM-03")


@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        ("-sys_admin,-bpf", ("CAP_SYS_ADMIN, CAP_BPF are missing", "maps and programs")),
        ("-sys_admin,-net_admin", ("CAP_SYS_ADMIN, CAP_NET_ADMIN are missing",)),
        ("-sys_admin", ("CAP_SYS_ADMIN is missing",)),
        ("-net_admin", ("CAP_NET_ADMIN is missing", "--cap-add=CAP_NET_ADMIN")),
        ("-sys_ptrace", ("CAP_SYS_PTRACE is missing", "other users' processes")),
        ("-all", ("CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON are missing",)),
    ],
)
def test_missing_capabilities(lacking: str, named: tuple[str, ...], chadthrottle: Command) -> None:
    found = diagnose(chadthrottle, wrapper=bounded(lacking))
    found.names_only("CT-PERM-03", *named, status=3)


def test_without_net_admin_programs_are_tried_all_the_same(chadthrottle: Command) -> None:
    """Where the kernel lets them be read back; 6.1 does not."""
    found = diagnose(chadthrottle, wrapper=bounded("-net_admin"))
    if kernel_version()[:2] > (6, 1):
        assert found.state("CT-BPF-03") == "ok"
    else:
        assert found["CT-PERM-05"]["because"] == found["CT-BPF-03"]["because"] == "CT-PERM-03"


def test_no_root_at_all(chadthrottle: Command) -> None:
    with without_root() as nobody:
        found = diagnose(chadthrottle, wrapper=nobody)
    found.names_only("CT-PERM-02", "uid 65534", "sudo chadthrottle doctor", status=3)
    for each in found.report["findings"]:
        assert each["status"] in ("ok", "could not tell") or each["id"] == "CT-PERM-02", each
    for each in "CT-SYS-01", "CT-SYS-03", "CT-CGROUP-01", "CT-PERM-01", "CT-PERM-06":
        assert found.state(each) == "ok", found.text(each)
    for each in "CT-BPF-03", "CT-CGROUP-03", "CT-CGROUP-05":
        assert found[each]["because"] == "CT-PERM-02", found[each]
    # That a module is not loaded, anybody may see.
    assert found["CT-SYS-12"]["because"] == "CT-PERM-02" or "has not loaded it" in found.text("CT-SYS-12")


def test_no_root_and_a_program_of_roots(chadthrottle: Command, child: int) -> None:
    with without_root() as nobody:
        found = diagnose(chadthrottle, child, wrapper=nobody)
    found.names_only("CT-PERM-02", f"sudo chadthrottle doctor {child}", status=3)
    assert found["CT-CGROUP-06"]["because"] == "CT-PERM-02"


def test_no_root_for_people(chadthrottle: Command) -> None:
    with without_root() as nobody:
        answer = chadthrottle("doctor", wrapper=nobody)
    assert answer.status == 3, answer
    assert "Traceback" not in answer.err + answer.out
    assert "sudo chadthrottle doctor" in answer.out


LINK_CREATE = 28  # include/uapi/linux/bpf.h


@pytest.mark.parametrize(
    ("number", "first", "named"),
    [
        (errno.EPERM, 0, ("bpf(2) altogether", "EPERM")),
        (errno.ENOSYS, 0, ("bpf(2) altogether", "ENOSYS")),
        (errno.EPERM, LINK_CREATE, ("denies BPF_LINK_CREATE", "EPERM")),
    ],
)
def test_seccomp(number: int, first: int, named: tuple[str, ...], chadthrottle: Command) -> None:
    found = diagnose(chadthrottle, wrapper=confined(number, first))
    found.names_only("CT-PERM-05", "a seccomp filter denies", *named, status=3)
    # … and the cure it prints, to run it without the filter:
    diagnose(chadthrottle).is_well("CT-PERM-05")


def test_seccomp_of_an_ancestor_names_it(chadthrottle: Command) -> None:
    found = diagnose(chadthrottle, wrapper=(*confined(errno.EPERM), "sh", "-c", '"$@"; exit $?', "sh"))
    found.names_only("CT-PERM-05", "in force since PID", "(sh)")


def test_a_user_namespace(chadthrottle: Command) -> None:
    found = diagnose(chadthrottle, wrapper=("unshare", "--user", "--map-root-user"))
    found.names_only("CT-PERM-01", "a user namespace (/proc/self/uid_map: 0 0 1)", status=3)
    assert found["CT-PERM-05"]["because"] == "CT-PERM-01"


def test_a_user_namespace_without_root_in_it(chadthrottle: Command) -> None:
    found = diagnose(chadthrottle, wrapper=("unshare", "--user"))
    found.names_only("CT-PERM-01", "uid_map: empty", status=3)
    assert found["CT-PERM-02"]["because"] == "CT-PERM-01"


def test_a_pid_namespace(chadthrottle: Command) -> None:
    found = diagnose(chadthrottle, 1234, wrapper=("unshare", "--pid", "--fork", "--mount-proc"))
    found.names_only("CT-PERM-04", "this is a container", "Run chadthrottle on the host", status=5)
    assert found["CT-CGROUP-06"]["because"] == "CT-PERM-04"


@pytest.mark.parametrize("mode", ["none", "integrity", "confidentiality"])
def test_lockdown_that_takes_nothing_away_is_no_cause(mode: str, chadthrottle: Command, tmp_path: Path) -> None:
    modes = " ".join(f"[{each}]" if each == mode else each for each in ("none", "integrity", "confidentiality"))
    (tmp_path / "lockdown").write_text(modes + "\n", encoding="ascii")
    (tmp_path / "lsm").write_text("lockdown,capability,bpf", encoding="ascii")
    found = diagnose(chadthrottle, setup=f"{SECURITYFS} cp {tmp_path}/lockdown {tmp_path}/lsm /sys/kernel/security")
    found.is_well("CT-PERM-07", "CT-PERM-08")
    assert "lockdown, capability, bpf" in found.text("CT-PERM-08")


def test_what_nobody_tells_is_not_ok(chadthrottle: Command) -> None:
    found = diagnose(chadthrottle, setup=SECURITYFS)
    found.is_well()
    assert found.state("CT-PERM-07") == found.state("CT-PERM-08") == "could not tell"
