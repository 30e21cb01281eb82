"""tools/demo.py: it shows what it should, and leaves nothing, however it ends."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chadthrottle.abi import TrafficCount, TrafficDirection
from chadthrottle.artifacts import MissingObjectError, StaleObjectError, check_fresh
from chadthrottle.bpf.cgroupfs import open_cgroup
from chadthrottle.bpf.query import program_ids
from tests.support.cgroups import cgroup2_root
from tools import build_ebpf, demo
from tools.demo import CGROUP_PREFIX, HOOKS, Moved, differences

COMMAND = [sys.executable, "tools/demo.py"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(build_ebpf.ROOT)}

# More than can pass while a test looks at it: the demo is ended in the middle.
ENDLESS = ["--megabytes", "1000000"]


@pytest.fixture(scope="module", autouse=True)
def built_objects() -> None:
    try:
        check_fresh("traffic")  # of either flavour
    except (MissingObjectError, StaleObjectError):
        build_ebpf.build_project("debug")


@pytest.fixture
def root() -> Path:
    path = cgroup2_root()
    if path is None:
        pytest.skip("needs cgroup2, and none is mounted")
    return path


@pytest.fixture(autouse=True)
def no_cgroup_left(root: Path) -> Iterator[None]:
    before = demo_cgroups(root)
    yield
    assert demo_cgroups(root) == before


def demo_cgroups(root: Path) -> set[Path]:
    return set(root.glob(f"{CGROUP_PREFIX}*"))


def run_demo(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [*COMMAND, *arguments]
    return subprocess.run(
        command, cwd=build_ebpf.ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=30
    )


@contextmanager
def demo_in_the_middle(root: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A demo whose programs are attached and whose transfer runs, and its cgroup."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*COMMAND, *ENDLESS], cwd=build_ebpf.ROOT, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            cgroup = root / f"{CGROUP_PREFIX}{process.pid}"
            wait_until(lambda: cgroup.exists() and len(attached(cgroup)) == len(HOOKS))
            yield process, cgroup
        finally:
            process.kill()


def attached(cgroup: Path) -> list[int]:
    with open_cgroup(cgroup) as directory:
        return [number for hook in HOOKS.values() for number in program_ids(directory.fd, hook)]


def children(pid: int) -> list[Path]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [Path(f"/proc/{child}") for child in text.split()]


def wait_until(condition: Callable[[], bool], patience: float = 10) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_shows_what_it_counted() -> None:
    started = time.monotonic()
    result = run_demo()
    assert (result.returncode, result.stderr) == (0, "")
    assert time.monotonic() - started < 5
    assert max(map(len, result.stdout.splitlines())) <= 80
    rows = re.findall(r"^(up|down) \(\w+\)" + r" +([\d,]+)" * 4 + r" +(1\.0\d\d\d)$", result.stdout, re.MULTILINE)
    assert [row[0] for row in rows] == ["up", "down"]
    for name, *columns, _ in rows:
        packets, ip_bytes, wire_bytes, payload = (int(column.replace(",", "")) for column in columns)
        assert payload == {"up": 4_000_000, "down": 8_000_000}[name]
        # 1448 bytes of payload to a packet, and acknowledgements of 52 bytes and few others between.
        assert payload / 1448 <= packets < 2 * payload / 1448
        assert payload < ip_bytes < wire_bytes < payload + 60 * packets
    programs = r"count_(in|e)gress +tag [0-9a-f]{16}  cgroup_inet_(in|e)gress, link \d+"
    assert re.findall(programs, result.stdout) == [("e", "e"), ("in", "in")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_in_the_middle_it_undoes_all(number: signal.Signals, root: Path) -> None:
    with demo_in_the_middle(root) as (process, cgroup):
        peers = children(process.pid)
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
        assert (process.returncode, err) == (128 + number, "stopped; all is undone\n")
    assert not cgroup.exists()
    assert len(peers) == 2
    assert not any(peer.exists() for peer in peers)


def test_killed_in_the_middle_it_leaves_an_empty_cgroup_that_the_next_run_removes(root: Path) -> None:
    others = [root / f"{CGROUP_PREFIX}{os.getpid()}", root / f"{CGROUP_PREFIX}of-somebody"]
    with demo_in_the_middle(root) as (process, cgroup):
        # Their network namespaces have no other holder.
        peers = children(process.pid)
        assert len(peers) == 2
        process.kill()
        process.communicate(timeout=10)
    wait_until(lambda: not any(peer.exists() for peer in peers))
    # The kernel releases what a dead process held in a worker.
    wait_until(lambda: not attached(cgroup))
    assert (cgroup / "cgroup.procs").read_text(encoding="ascii") == ""
    for path in others:
        path.mkdir()
    try:
        result = run_demo()
        assert result.returncode == 0, result.stderr
        assert f"{cgroup.name}, left by a run that was killed" in result.stdout
        assert not cgroup.exists()
        assert demo_cgroups(root) >= set(others)
    finally:
        for path in others:
            path.rmdir()


def test_failure_in_the_middle_is_told_and_undone(root: Path) -> None:
    """The client dies as if by the OOM killer."""
    with demo_in_the_middle(root) as (process, cgroup):
        client = (cgroup / "cgroup.procs").read_text(encoding="ascii").split()
        os.kill(int(client[0]), signal.SIGKILL)
        _, err = process.communicate(timeout=10)
        assert process.returncode == 1
        assert err == "error: a process of the demo has died\n"
    assert not cgroup.exists()


def test_without_root_it_says_so_on_one_screen() -> None:
    # Imported before: that user may not be allowed to read the checkout.
    program = "import os, sys; from tools import demo; os.setuid(65534); sys.exit(demo.main())"
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=build_ebpf.ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert result.stdout == ""
    assert re.fullmatch(r"error: .* takes root\.\nRun: make demo .*\n", result.stderr)


def test_root_without_capabilities_is_told() -> None:
    command = ["setpriv", "--bounding-set=-sys_admin", *COMMAND]
    result = subprocess.run(
        command, cwd=build_ebpf.ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=30
    )
    assert result.returncode == 3
    assert "unshare: Operation not permitted" in result.stderr
    assert "CAP_SYS_ADMIN" in result.stderr


def test_missing_ip_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(demo.DemoError, match="ip is missing") as caught:
        demo.check_prerequisites()
    assert "apt-get install iproute2" in str(caught.value)


def good() -> dict[TrafficDirection, TrafficCount]:
    return {
        TrafficDirection.EGRESS: TrafficCount(700, 1_002_000, 1_040_000, 0),
        TrafficDirection.INGRESS: TrafficCount(1400, 2_004_000, 2_080_000, 0),
    }


def test_consistent_figures_are_accepted() -> None:
    assert differences(good(), Moved(1_000_000, 2_000_000), Moved(2_000_000, 1_000_000)) == []


@pytest.mark.parametrize(
    ("count", "complaint"),
    [
        (TrafficCount(700, 999_999, 1_040_000, 0), "egress: 999,999 IP bytes counted, fewer than"),
        (TrafficCount(700, 1_002_000, 1_001_999, 0), "egress: 1,001,999 wire bytes, fewer than"),
        (TrafficCount(1400, 2_004_000, 2_080_000, 0), "egress: 2,080,000 wire bytes counted for 1,000,000"),
        (TrafficCount(700, 1_002_000, 1_040_000, 3), "egress: 3 packets were not understood"),
    ],
)
def test_inconsistent_figures_are_told(count: TrafficCount, complaint: str) -> None:
    counted = good() | {TrafficDirection.EGRESS: count}
    (told,) = differences(counted, Moved(1_000_000, 2_000_000), Moved(2_000_000, 1_000_000))
    assert told.startswith(complaint)


def test_sockets_that_disagree_are_told() -> None:
    (told,) = differences(good(), Moved(1_000_000, 2_000_000), Moved(2_000_000, 999_999))
    assert "the server's" in told
