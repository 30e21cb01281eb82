"""doctor, cgroups: cgroup2 hidden, in part, read-only; bpffs missing, read-only; a program that is none."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.cgroups import cgroup2_root
from tests.support.command import Command
from tests.support.doctor import diagnose, sleeping
from tests.support.patience import patient

NO_CGROUP2 = "awk '$3 == \"cgroup2\" {print $2}' /proc/mounts | sort -r | xargs -n1 umount -l; "
NO_BPFFS = "while umount -l /sys/fs/bpf 2>/dev/null; do :; done; "
READ_ONLY_BPFFS = "mount -o remount,bind,ro /sys/fs/bpf; "

LISTENING = """
import socket, sys
kept = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)]
kept[1].bind(("::1", 0))
print("made", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child() -> Iterator[int]:
    """A program to ask about."""
    with sleeping() as pid:
        yield pid


def root() -> Path:
    found = cgroup2_root()
    assert found is not None
    return found


def test_cgroup_v1_only(chadthrottle: Command) -> None:
    found = diagnose(chadthrottle, setup=NO_CGROUP2)
    found.names_only("CT-CGROUP-01", "not mounted", "mount -t cgroup2", status=5)
    assert found["CT-CGROUP-02"]["because"] == "CT-CGROUP-01"
    # The cure mounts it on /run/cgroup2: here on a /run of the test's own.
    setup = f"{NO_CGROUP2} mount -t tmpfs ct-test-run /run; {found.cure('CT-CGROUP-01')}"
    diagnose(chadthrottle, setup=setup).is_well("CT-CGROUP-01", "CT-CGROUP-02")


def test_a_containers_view(chadthrottle: Command, leaf_cgroup: Path) -> None:
    inside = f'{NO_CGROUP2} mount -t cgroup2 ct-test-cgroup2 {root()}; exec "$@"'
    found = diagnose(
        chadthrottle,
        setup=f"echo $$ >{leaf_cgroup}/cgroup.procs",
        wrapper=("unshare", "--cgroup", "sh", "-ec", inside, "sh"),
    )
    found.names_only("CT-CGROUP-02", "only a part of the tree", "--at leaf", status=5)


def test_no_bpffs_is_no_fault_where_one_can_be_mounted(chadthrottle: Command) -> None:
    found = diagnose(chadthrottle, setup=NO_BPFFS)
    found.is_well("CT-CGROUP-03")
    assert "the first command will mount it" in found.text("CT-CGROUP-03")


def test_no_place_for_bpffs(chadthrottle: Command) -> None:
    setup = "mount -t tmpfs ct-test-fs /sys/fs; mkdir /sys/fs/cgroup; mount -t cgroup2 ct-test /sys/fs/cgroup; "
    found = diagnose(chadthrottle, setup=setup)
    found.names_only("CT-CGROUP-03", "there is no /sys/fs/bpf", "ENOENT", status=5)
    diagnose(chadthrottle, setup=setup + found.cure("CT-CGROUP-03")).is_well("CT-CGROUP-03")


def test_bpffs_is_read_only(chadthrottle: Command) -> None:
    found = diagnose(chadthrottle, setup=READ_ONLY_BPFFS, as_started=True)
    found.names_only("CT-CGROUP-03", "EROFS", "read-only", "/sys/fs/bpf", status=5)
    diagnose(chadthrottle, setup=READ_ONLY_BPFFS + found.cure("CT-CGROUP-03")).is_well("CT-CGROUP-03")


def test_cgroup2_is_read_only(chadthrottle: Command) -> None:
    setup = f"mount -o remount,bind,ro {root()}; "
    found = diagnose(chadthrottle, setup=setup)
    found.names_only("CT-CGROUP-05", "EROFS", "read-only", status=0)
    diagnose(chadthrottle, setup=setup + found.cure("CT-CGROUP-05")).is_well("CT-CGROUP-05")


def test_the_program_is_gone(chadthrottle: Command, child: int) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    diagnose(chadthrottle, gone.pid).names_only("CT-CGROUP-06", f"no process {gone.pid}", "pgrep", status=5)
    diagnose(chadthrottle, child).is_well("CT-CGROUP-06", "CT-CGROUP-07", "CT-CGROUP-08")


def test_a_zombie(chadthrottle: Command) -> None:
    zombie = subprocess.Popen(["true"], stdout=subprocess.DEVNULL)
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    try:
        diagnose(chadthrottle, zombie.pid).names_only("CT-CGROUP-06", "is a zombie", status=5)
    finally:
        zombie.wait()


def test_a_kernel_thread(chadthrottle: Command) -> None:
    kthreadd = next(pid for pid in range(2, 100) if is_kernel_thread(pid))
    diagnose(chadthrottle, kthreadd).names_only("CT-CGROUP-06", "is a kernel thread", status=5)


def is_kernel_thread(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and bool(int(stat.read_text(encoding="ascii").rpartition(")")[2].split()[6]) & 0x0020_0000)


def test_pid_1(chadthrottle: Command) -> None:
    diagnose(chadthrottle, 1).names_only("CT-CGROUP-06", "PID 1 is the system itself", status=5)


def test_a_thread(chadthrottle: Command) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        found = diagnose(chadthrottle, thread.native_id)
        found.names_only("CT-CGROUP-06", f"is a thread of process {os.getpid()}", status=5)
        assert found.cure("CT-CGROUP-06") == f"chadthrottle doctor {os.getpid()}"
    finally:
        done.set()
        thread.join()


def test_where_the_program_is(chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    (leaf_cgroup / "cgroup.procs").write_text(str(child), encoding="ascii")
    os.chown(leaf_cgroup, 65534, 65534)
    os.setxattr(leaf_cgroup, "trusted.delegate", b"1")
    found = diagnose(chadthrottle, child)
    found.is_well("CT-CGROUP-07")
    text = found.text("CT-CGROUP-07")
    assert f"{leaf_cgroup}, owned by nobody, delegated" in text


def test_sockets_that_stayed_behind(chadthrottle: Command, leaf_cgroup: Path) -> None:
    first, second = leaf_cgroup / "first", leaf_cgroup / "second"
    for each in first, second:
        each.mkdir()
    with listening_in(first) as pid:
        found = diagnose(chadthrottle, pid)
        found.is_well("CT-CGROUP-08")
        assert "2 TCP and UDP sockets, all of its own cgroup" in found.text("CT-CGROUP-08")
        (second / "cgroup.procs").write_text(str(pid), encoding="ascii")
        found = diagnose(chadthrottle, pid)
        found.is_well("CT-CGROUP-08")
        text = found.text("CT-CGROUP-08")
        assert "2 of 2 TCP and UDP sockets belong to another cgroup" in text
        assert f"is of {first}" in text
        assert "Hooks at the root" in text


@contextmanager
def listening_in(cgroup: Path) -> Iterator[int]:
    """A process that was in `cgroup` when it made its sockets."""
    script = f'echo $$ >{cgroup}/cgroup.procs && exec "$@"'
    command = ["sh", "-c", script, "sh", sys.executable, "-c", LISTENING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "made\n"
        try:
            yield process.pid
        finally:
            process.stdin.close()
            process.wait(patient(5))


def test_the_caller_is_who_called_sudo(chadthrottle: Command) -> None:
    found = diagnose(chadthrottle, variables={"SUDO_UID": "65534"})
    assert "nobody (uid 65534)" in found.text("CT-CGROUP-04")
