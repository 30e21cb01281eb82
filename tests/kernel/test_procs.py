"""Processes across namespaces and users: what needs root to set up."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from chadthrottle import procs
from chadthrottle.errors import ChadthrottleError, KernelCannotError
from tests.support.children import in_child
from tests.support.readable import readable_package

NOBODY = 65534
ROOT = Path(__file__).parents[2]

ASK = """if True:
    import sys
    from chadthrottle import procs
    from chadthrottle.errors import ChadthrottleError
    try:
        print("found", procs.resolve(sys.argv[1]).pid)
    except ChadthrottleError as error:
        print(error.exit_code, error)
"""


def ask(pid: int | str, *wrapper: str) -> str:
    """What `resolve` answers inside of what `wrapper` sets up."""
    with readable_package() as package:
        # Python itself, not the link in .venv: procs needs no other library, and nobody may reach neither.
        command = [*wrapper, os.path.realpath(sys.executable), "-c", ASK, str(pid)]
        environment = os.environ | {"PYTHONPATH": str(package)}
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", env=environment).stdout


def refusal(action: Callable[[], Any]) -> list[Any]:
    try:
        action()
    except ChadthrottleError as error:
        return [type(error).__name__, error.exit_code, str(error)]
    return ["found", 0, ""]


def be_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def test_the_initial_namespaces_are_recognised() -> None:
    procs.require_initial_namespaces()


@pytest.mark.parametrize(
    "wrapper",
    [
        pytest.param(("unshare", "--pid", "--fork", "--mount-proc"), id="container"),
        pytest.param(("unshare", "--pid", "--fork"), id="container that sees the host's /proc"),
    ],
)
def test_in_a_container_every_number_is_refused(wrapper: tuple[str, ...]) -> None:
    # PID 2 of the namespace is nobody's, PID 2 of the host a kernel thread: neither is looked at.
    answer = ask(2, *wrapper)
    assert answer.startswith("5 this is a container")
    assert "on the host" in answer
    assert ask(0, *wrapper).startswith("2 ")


def test_a_time_namespace_is_refused() -> None:
    answer = ask(2, "unshare", "--time", "--fork", "--boottime", "1000")
    assert answer.startswith("5 this is a time namespace")


def test_proc_of_another_namespace_cannot_deceive() -> None:
    """We are outside, /proc is of a namespace below: there our numbers mean nothing."""
    inner = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", "echo; sleep 60; :"], stdout=subprocess.PIPE
    )
    try:
        assert inner.stdout is not None
        inner.stdout.readline()
        child = next(iter({each.pid for each in procs.descendants(inner.pid)}))
        # In its mount namespace, not in its PID namespace.
        answer = ask(2, "nsenter", f"--mount=/proc/{child}/ns/mnt", f"--root=/proc/{child}/root", f"--wd={Path.cwd()}")
        assert answer.startswith("5 ")
        assert "/proc" in answer
    finally:
        for each in procs.descendants(inner.pid):
            with suppress(ProcessLookupError):  # the namespace's first process takes the others along
                os.kill(each.pid, 9)
        inner.wait()
        if inner.stdout is not None:
            inner.stdout.close()


def test_without_proc() -> None:
    answer = ask(os.getpid(), "unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc; exec "$@"', "sh")
    assert answer.startswith("5 /proc is not mounted here")


def test_a_process_in_a_pid_namespace_below_is_found_by_the_host_s_number() -> None:
    inner = subprocess.Popen(["unshare", "--pid", "--fork", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE)
    try:
        assert inner.stdout is not None
        inner.stdout.readline()
        (child,) = procs.descendants(inner.pid)
        assert procs.resolve(str(child.pid)).identity == child
        assert "\t1" in next(
            line for line in Path(f"/proc/{child.pid}/status").read_text().splitlines() if line.startswith("NSpid")
        )
    finally:
        for each in procs.descendants(inner.pid):
            os.kill(each.pid, 9)
        inner.wait()
        if inner.stdout is not None:
            inner.stdout.close()


def test_another_user_s_process_without_root() -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        kind, code, text = in_child(lambda: refusal(lambda: procs.inspect(sleeper.pid)), before=be_nobody)
    finally:
        sleeper.kill()
        sleeper.wait()
    assert (kind, code) == ("NotPermittedError", 3)
    assert "another user (uid 0)" in text
    assert "sudo" in text


def test_one_s_own_process_without_root() -> None:
    def inside() -> int:
        sleeper = subprocess.Popen(["sleep", "60"])
        try:
            return procs.inspect(sleeper.pid).uid
        finally:
            sleeper.kill()
            sleeper.wait()

    assert in_child(inside, before=be_nobody) == NOBODY


@pytest.mark.parametrize("hidepid", ["1", "2"])
def test_hidden_is_not_the_same_as_gone(hidepid: str) -> None:
    """A user who cannot see a process is told so, not that there is none."""
    script = f'mount -t proc -o hidepid={hidepid} proc /proc; exec setpriv --reuid {NOBODY} --clear-groups "$@"'
    wrapper = ("unshare", "--mount", "sh", "-c", script, "sh")
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        answer = ask(sleeper.pid, *wrapper)
    finally:
        sleeper.kill()
        sleeper.wait()
    assert answer.startswith("3 process")
    assert "sudo" in answer
    assert ask(sleeper.pid, *wrapper).startswith("4 there is no process")


def test_kernel_threads_have_no_descendants_to_limit() -> None:
    # PID 1's descendants leave kthreadd's out.
    assert not [each for each in procs.descendants(1) if (s := procs.read_stat(each.pid)) and s.is_kernel_thread]


def test_init_is_refused_even_for_root() -> None:
    assert refusal(lambda: procs.resolve("1", allow_ancestors=True))[1] == 2
    assert KernelCannotError.exit_code == 5
