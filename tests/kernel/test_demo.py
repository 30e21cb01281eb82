"""`make demo`: it shows what it should, and leaves nothing, however it ends."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from chadthrottle.bpf.cgroupfs import open_cgroup
from chadthrottle.bpf.constants import AttachType
from chadthrottle.bpf.query import program_ids
from tests.support.cgroups import cgroup2_root
from tests.support.objects import built_objects
from tests.support.patience import patient
from tools import build_ebpf
from tools.demo import show
from tools.demo.errors import DemoError
from tools.demo.show import Rates, wrong_with
from tools.demo.surroundings import CGROUP_PREFIX

pytestmark = pytest.mark.long

COMMAND = [sys.executable, "-m", "tools.demo"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(build_ebpf.ROOT)}
HOOKS = (
    AttachType.BPF_CGROUP_INET_EGRESS,
    AttachType.BPF_CGROUP_INET_INGRESS,
    AttachType.BPF_CGROUP_INET_SOCK_CREATE,
    AttachType.BPF_CGROUP_SOCK_OPS,
)

# More than can pass while a test looks at it: the demo is ended in the middle.
ENDLESS = ["--seconds", "1000"]


@pytest.fixture(scope="module", autouse=True)
def objects() -> None:
    built_objects("throttle")


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
        command, cwd=build_ebpf.ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=patient(30)
    )


@contextmanager
def demo_in_the_middle(root: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A demo whose limit stands and whose transfer runs, and its cgroup."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*COMMAND, *ENDLESS], cwd=build_ebpf.ROOT, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            cgroup = root / f"{CGROUP_PREFIX}{process.pid}"
            wait_until(lambda: process.poll() is not None or is_measuring(process.pid))
            assert process.returncode is None, process.communicate()
            assert len(attached(cgroup)) >= len(HOOKS)
            yield process, cgroup
        finally:
            process.kill()


def attached(cgroup: Path) -> list[int]:
    with open_cgroup(cgroup) as directory:
        return [number for hook in HOOKS for number in program_ids(directory.fd, hook)]


def is_measuring(pid: int) -> bool:
    """Whether the demo has come to `chadthrottle verify`."""
    for child in children(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            if "verify" in (child / "cmdline").read_text("utf-8").split("\0"):
                return True
    return False


def children(pid: int) -> list[Path]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [Path(f"/proc/{child}") for child in text.split()]


def wait_until(condition: Callable[[], bool], patience: float = 10) -> None:
    deadline = time.monotonic() + patient(patience)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_shows_a_limit_before_during_and_after() -> None:
    started = time.monotonic()
    result = run_demo("--seconds", "3")
    assert (result.returncode, result.stderr) == (0, "")
    assert time.monotonic() - started < patient(13)
    assert max(map(len, result.stdout.splitlines())) <= 80
    said = re.findall(
        r"^(Before|During|After) +([\d.]+) ([MG])bit/s up, ([\d.]+) ([MG])bit/s down", result.stdout, re.MULTILINE
    )
    rates = {
        when: [float(number) * {"M": 1, "G": 1000}[unit] for number, unit in (each[:2], each[2:])]
        for when, *each in said
    }
    assert list(rates) == ["Before", "During", "After"]
    assert min(rates["Before"] + rates["After"]) > 200
    assert 0.85 * 20 < rates["During"][0] < 20
    assert 0.75 * 50 <= rates["During"][1] <= 1.1 * 50
    commands = re.findall(r"^\$ chadthrottle (\w+) ?(\d*)", result.stdout, re.MULTILINE)
    assert [command for command, _ in commands] == ["throttle", "verify", "list", "release"]
    (client,) = {pid for _, pid in commands if pid}
    assert f"demo-client (PID {client}) limited:\n" in result.stdout
    assert "The limit holds" in result.stdout
    assert f"PID {client} released\n" in result.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_in_the_middle_it_undoes_all(number: signal.Signals, root: Path) -> None:
    with demo_in_the_middle(root) as (process, cgroup):
        peers = children(process.pid)
        process.send_signal(number)
        _, err = process.communicate(timeout=patient(10))
        assert (process.returncode, err) == (128 + number, "stopped; all is undone\n")
    assert not cgroup.exists()
    assert len(peers) == 3  # client, server, and `chadthrottle verify`, which dies with the demo
    wait_until(lambda: not any(peer.exists() for peer in peers))


def test_killed_in_the_middle_it_leaves_an_empty_cgroup_that_the_next_run_removes(root: Path) -> None:
    others = [root / f"{CGROUP_PREFIX}{os.getpid()}", root / f"{CGROUP_PREFIX}of-somebody"]
    with demo_in_the_middle(root) as (process, cgroup):
        # Their network namespaces have no other holder.
        peers = children(process.pid)
        process.kill()
        process.communicate(timeout=patient(10))
    wait_until(lambda: not any(peer.exists() for peer in peers))
    # The mount namespace ends with the last of them, and with it the bpffs, its pins and the links.
    # The kernel releases what a dead process held in a worker.
    wait_until(lambda: not attached(cgroup))
    assert (cgroup / "cgroup.procs").read_text(encoding="ascii") == ""
    for path in others:
        path.mkdir()
    try:
        with demo_in_the_middle(root) as (process, own):
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=patient(10))
        assert process.returncode == 128 + signal.SIGINT
        assert f"{cgroup.name}, left by a run that was killed" in out
        assert not cgroup.exists()
        assert not own.exists()
        assert demo_cgroups(root) >= set(others)
    finally:
        for path in others:
            path.rmdir()


def test_failure_in_the_middle_is_told_and_undone(root: Path) -> None:
    """The client dies as if by the OOM killer."""
    with demo_in_the_middle(root) as (process, cgroup):
        client = (cgroup / "cgroup.procs").read_text(encoding="ascii").split()
        os.kill(int(client[0]), signal.SIGKILL)
        _, err = process.communicate(timeout=patient(10))
        assert process.returncode == 1
        first, second, *_ = err.splitlines()
        assert first == "error: `chadthrottle verify` answered 4"
        assert second.startswith("error: ")
        assert client[0] in second
    assert not cgroup.exists()


def test_without_root_it_says_so_on_one_screen() -> None:
    # Imported before: that user may not be allowed to read the checkout.
    program = "import os, sys; from tools.demo.show import main; os.setuid(65534); sys.exit(main())"
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=build_ebpf.ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert result.stdout == ""
    assert re.fullmatch(r"error: .* takes root\.\nRun: make demo .*\n", result.stderr)


def test_root_without_capabilities_is_told() -> None:
    command = ["setpriv", "--bounding-set=-sys_admin", *COMMAND]
    result = subprocess.run(
        command, cwd=build_ebpf.ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=patient(30)
    )
    assert result.returncode == 3
    assert "unshare: Operation not permitted" in result.stderr
    assert "CAP_SYS_ADMIN" in result.stderr


def test_missing_ip_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DemoError, match="ip is missing") as caught:
        show.check_prerequisites()
    assert "apt-get install iproute2" in str(caught.value)


def rates(up_mbit: float, down_mbit: float) -> Rates:
    return Rates(int(up_mbit * 125_000), int(down_mbit * 125_000))


def test_good_figures_are_accepted() -> None:
    assert wrong_with(rates(80, 200), rates(17, 37.5), rates(5000, 200)) == []
    assert wrong_with(rates(80, 200), rates(20, 55), rates(80, 200)) == []


@pytest.mark.parametrize(
    ("before", "during", "after", "complaint"),
    [
        ((79, 900), (19, 48), (900, 900), "up: 79 Mbit/s before, although nothing limits it"),
        ((900, 900), (16.9, 48), (900, 900), "up: 16.9 Mbit/s under a limit of 20 Mbit/s"),
        ((900, 900), (20.1, 48), (900, 900), "up: 20.1 Mbit/s under a limit of 20 Mbit/s"),
        ((900, 900), (19, 55.1), (900, 900), "down: 55.1 Mbit/s under a limit of 50 Mbit/s"),
        ((900, 900), (19, 48), (900, 48), "down: 48 Mbit/s after, although nothing limits it"),
    ],
)
def test_figures_that_are_not_as_promised(
    before: tuple[float, float], during: tuple[float, float], after: tuple[float, float], complaint: str
) -> None:
    assert wrong_with(rates(*before), rates(*during), rates(*after)) == [complaint]
