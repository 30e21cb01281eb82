"""The kernel tests' own machinery: the lock, and skips that must not pass unseen."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.kernel_lock import is_held_by_ancestor, kernel_lock
from tools.build_ebpf import ROOT

HOLD = "import sys; from pathlib import Path; from tests.support.kernel_lock import kernel_lock\n"
HOLD += "with kernel_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


def hold(path: Path, *wrapper: str) -> "subprocess.Popen[str]":
    command = [*wrapper, sys.executable, "-c", HOLD, str(path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_the_lock_excludes(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with kernel_lock(path), path.open(encoding="ascii") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open(encoding="ascii") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_under_flock_of_an_ancestor_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    """`flock LOCK make test`: flock(1) waits as our parent, holding the lock."""
    path = tmp_path / "lock"
    process = hold(path, "flock", "--close", str(path))
    out, err = process.communicate("", timeout=20)
    assert (out, err, process.returncode) == ("held\n", "", 0)


def test_somebody_elses_lock_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = hold(path)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    assert not is_held_by_ancestor(path)
    second = hold(path)
    assert second.stderr is not None
    while "waiting for" not in (line := second.stderr.readline()):
        assert second.poll() is None, line
    time.sleep(0.05)
    assert second.poll() is None
    first.communicate("", timeout=20)
    assert second.communicate("", timeout=20)[0] == "held\n"


CASES = """
import pytest
pytestmark = pytest.mark.kernel
@pytest.fixture
def absent():
    pytest.skip("no such device")
def test_skips():
    pytest.skip("no such kernel")
def test_skips_in_setup(absent):
    pass
@pytest.mark.skip(reason="not today")
def test_is_marked():
    pass
@pytest.mark.xfail(reason="known", strict=True)
def test_fails():
    assert False
"""


def run_cases(tmp_path: Path, require: str, uid: int = 0) -> str:
    """A pytest of its own with our conftest, told that it runs as `uid`, without kernel and lock."""
    (tmp_path / "test_cases.py").write_text(CASES, encoding="ascii")
    program = (
        "import contextlib, os, sys, pytest\n"
        f"os.geteuid = lambda: {uid}\n"
        "from tests import conftest\n"
        "conftest.Machine.now = staticmethod(lambda: conftest.Machine(frozenset(), frozenset()))\n"
        "conftest.kernel_lock = contextlib.nullcontext\n"
        "sys.exit(pytest.main(sys.argv[1:], plugins=[conftest]))\n"
    )
    arguments = ["-q", "-rs", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), str(tmp_path)]
    environment = os.environ | {"CHADTHROTTLE_REQUIRE_KERNEL_TESTS": require, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    ).stdout


def test_skips_are_skips(tmp_path: Path) -> None:
    assert "3 skipped, 1 xfailed" in run_cases(tmp_path, require="")


def test_skips_are_failures_where_the_kernel_is_required(tmp_path: Path) -> None:
    output = run_cases(tmp_path, require="1")
    assert "1 xfailed" in output
    assert "1 failed" in output
    assert "2 errors" in output
    for reason in ("no such kernel", "no such device", "not today"):
        assert f"{reason}\nCHADTHROTTLE_REQUIRE_KERNEL_TESTS=1: a skipped kernel test is a failure" in output


def test_without_root_the_reason_is_given(tmp_path: Path) -> None:
    assert "needs root, runs as uid 1000" in run_cases(tmp_path, require="", uid=1000)
    assert "passed" not in run_cases(tmp_path, require="1", uid=1000)
