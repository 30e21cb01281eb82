"""`chadthrottle run`: the limit stands before COMMAND starts, and COMMAND notices nothing else of us."""

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command import ROOT, Command, environment
from tests.support.patience import patient

NOBODY = pwd.getpwnam("nobody")
FACTS = (
    "import json, os, signal; print(json.dumps({"
    "'ids': [os.getresuid(), os.getresgid(), os.getgroups()], 'pid': os.getpid(), "
    "'env': {n: v for n, v in os.environ.items() if n.startswith('SUDO_') or n in ('HOME', 'USER', 'LOGNAME')}, "
    "'blocked': len(signal.pthread_sigmask(signal.SIG_BLOCK, [])), 'descriptors': sorted(os.listdir('/proc/self/fd')), "
    "'ignored': open('/proc/self/status').read().split('SigIgn:')[1].split()[0]}))"
)
PYTHON = "/usr/bin/python3"  # one that everybody may execute


@pytest.fixture(autouse=True)
def nothing_stays(bpffs: Path) -> Iterator[None]:
    yield
    assert not (bpffs / "chadthrottle").exists()


@contextmanager
def running(chadthrottle: Command, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """`chadthrottle run …` whose COMMAND has written its first line, which is its PID."""
    with subprocess.Popen(
        chadthrottle.line("run", *words), cwd=ROOT, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def test_the_limit_stands_before_the_first_instruction(chadthrottle: Command, leaf_cgroup: Path) -> None:
    # COMMAND itself asks the kernel, through the same pins.
    script = "from chadthrottle.cli import main; main(['list', '--json'])"
    answer = chadthrottle("run", "1mbit", "--at", leaf_cgroup, "--", sys.executable, "-c", script)
    assert answer.status == 0
    (rule,) = answer.json()["rules"]
    assert rule["name"] == Path(sys.executable).name[:15]
    assert rule["up"]["asked_bytes_per_s"] == rule["down"]["asked_bytes_per_s"] == 125_000
    first, upload, download = answer.err.splitlines()
    assert first == f"{rule['name']} (PID {rule['pid']}) limited:"
    assert (upload.split()[0], download.split()[0]) == ("upload", "download")
    assert chadthrottle("list").out == "nothing is limited\n"


def test_other_rules_stay(chadthrottle: Command, leaf_cgroup: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as other:
        try:
            chadthrottle("throttle", other.pid, "1mbit", "--at", leaf_cgroup)
            assert chadthrottle("run", "1mbit", "--at", leaf_cgroup, "--quiet", "--", "true").status == 0
            (rule,) = chadthrottle("list", "--json").json()["rules"]
            assert rule["pid"] == other.pid
            assert chadthrottle("release", "--all").status == 0
        finally:
            other.kill()


def test_the_rule_ends_although_a_child_stays(chadthrottle: Command, leaf_cgroup: Path) -> None:
    command = ("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
    answer = chadthrottle("run", "1mbit", "--at", leaf_cgroup, "--quiet", "--", *command)
    os.kill(int(answer.out), signal.SIGKILL)
    assert (answer.status, answer.err) == (0, "")
    assert chadthrottle("list").out == "nothing is limited\n"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["sh", "-c", "kill -9 $$"], 137),
    ],
)
def test_the_status_is_the_commands(command: list[str], status: int, chadthrottle: Command, leaf_cgroup: Path) -> None:
    assert chadthrottle("run", "1mbit", "--at", leaf_cgroup, "--", *command).status == status


def test_its_input_and_output_are_ours(chadthrottle: Command, leaf_cgroup: Path) -> None:
    answer = chadthrottle("run", "--up", "1mbit", "--at", leaf_cgroup, "--quiet", "--", "cat", "-", stdin="hello")
    assert (answer.status, answer.out, answer.err) == (0, "hello", "")


def facts(
    chadthrottle: Command, leaf_cgroup: Path, *options: str, variables: dict[str, str] | None = None
) -> dict[str, object]:
    words = ("run", "1mbit", "--at", leaf_cgroup, *options, "--", PYTHON, "-c", FACTS)
    answer = chadthrottle(*words, variables=variables)
    assert answer.status == 0, answer.err
    found: dict[str, object] = json.loads(answer.out)
    return found


SUDO = {"SUDO_UID": str(NOBODY.pw_uid), "SUDO_GID": str(NOBODY.pw_gid), "SUDO_USER": "nobody", "SUDO_COMMAND": "x"}


def test_under_sudo_it_is_the_invoking_user(chadthrottle: Command, leaf_cgroup: Path) -> None:
    found = facts(chadthrottle, leaf_cgroup, variables=SUDO)
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    assert found["ids"] == [[uid] * 3, [gid] * 3, sorted(os.getgrouplist("nobody", gid))]
    assert found["env"] == {"HOME": NOBODY.pw_dir, "USER": "nobody", "LOGNAME": "nobody"}


def test_under_sudo_as_root(chadthrottle: Command, leaf_cgroup: Path) -> None:
    found = facts(chadthrottle, leaf_cgroup, "--as-root", variables=SUDO)
    assert found["ids"] == [[0] * 3, [0] * 3, os.getgroups()]
    environment_found = found["env"]
    assert isinstance(environment_found, dict)
    assert environment_found.items() >= SUDO.items()


def test_a_user_nobody_knows(chadthrottle: Command, leaf_cgroup: Path) -> None:
    found = facts(chadthrottle, leaf_cgroup, variables={"SUDO_UID": "54321", "SUDO_GID": "54322"})
    assert found["ids"] == [[54321] * 3, [54322] * 3, [54322]]


def test_it_inherits_nothing_of_ours(chadthrottle: Command, leaf_cgroup: Path, tmp_path: Path) -> None:
    found = facts(chadthrottle, leaf_cgroup, "--log", str(tmp_path / "log"))
    assert (found["blocked"], found["descriptors"]) == (0, ["0", "1", "2", "3"])  # 3: the directory it lists
    # What this process was started with is not ours: a job in the background ignores more.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    inherited = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")), 16)
    allowed = inherited | 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    assert int(str(found["ignored"]), 16) & ~allowed == 0


@pytest.mark.parametrize("variables", [{"SUDO_UID": "65534"}, {"SUDO_UID": "-1", "SUDO_GID": "0"}, {"SUDO_GID": "x"}])
def test_it_never_guesses_whom_to_run_as(variables: dict[str, str], chadthrottle: Command, leaf_cgroup: Path) -> None:
    answer = chadthrottle("run", "1mbit", "--at", leaf_cgroup, "--", "id", variables=variables)
    assert (answer.status, answer.out) == (125, "")
    assert "do not say who called sudo" in answer.err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--", "true"], 125, "no rate given"),
        (["1mbit"], 125, "no command given"),
        (["1mbit", "--"], 125, "no command given"),
        (["1mbit", "true"], 125, "unexpected extra argument"),
        (["1M", "--", "true"], 125, "RATE 1M"),
        (["1mbit", "--at", "/dev/shm", "--", "true"], 125, "not in cgroup2"),
        (["1mbit", "--attach", "best", "--", "true"], 125, "--attach best is no way to attach"),
        (["1mbit", "--nonsense", "--", "true"], 125, "No such option"),
        (["1mbit", "--at", "LEAF", "--", "/no/such/program"], 127, "/no/such/program: No such file"),
        (["1mbit", "--at", "LEAF", "--", "no-such-program-ct"], 127, "no-such-program-ct: No such file"),
        (["1mbit", "--at", "LEAF", "--", "/etc/passwd"], 126, "/etc/passwd: Permission denied"),
        (["1mbit", "--at", "LEAF", "--", "/"], 126, "/: Permission denied"),
    ],
)
def test_when_we_fail(words: list[str], status: int, said: str, chadthrottle: Command, leaf_cgroup: Path) -> None:
    answer = chadthrottle("run", "--quiet", *(str(leaf_cgroup) if word == "LEAF" else word for word in words))
    assert (answer.status, answer.out) == (status, "")
    assert answer.err.startswith("error: ")
    assert said in " ".join(answer.err.split())
    answer.require_one_screen()


def test_without_capabilities_nothing_runs(chadthrottle: Command, leaf_cgroup: Path) -> None:
    wrapper = ("setpriv", "--bounding-set=-sys_admin,-bpf", "--")
    answer = chadthrottle("run", "1mbit", "--at", leaf_cgroup, "--", "echo", "ran", wrapper=wrapper)
    assert (answer.status, answer.out) == (125, "")
    assert "CAP_BPF" in answer.err


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_are_forwarded_once(number: signal.Signals, chadthrottle: Command, leaf_cgroup: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "seen = []\n"
        f"signal.signal({int(number)}, lambda *_: seen.append(1))\n"
        "print('ready', flush=True)\n"
        "while not seen: time.sleep(0.01)\n"
        "time.sleep(0.2)\n"
        "sys.exit(40 + len(seen))\n"
    )
    with running(chadthrottle, "1mbit", "--at", str(leaf_cgroup), "--", PYTHON, "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(patient(10)) == 41


def test_a_signal_it_does_not_catch_ends_both(chadthrottle: Command, leaf_cgroup: Path) -> None:
    with running(chadthrottle, "1mbit", "--at", str(leaf_cgroup), "--", "sh", "-c", "echo; exec sleep 1000") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(patient(10)) == 128 + signal.SIGTERM


def test_ctrl_c_on_a_terminal_arrives_once(chadthrottle: Command, leaf_cgroup: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "seen = []\n"
        "signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "print('ready', flush=True)\n"
        "while not seen: time.sleep(0.01)\n"
        "time.sleep(0.2)\n"
        "sys.exit(40 + len(seen))\n"
    )
    line = chadthrottle.line("run", "1mbit", "--at", str(leaf_cgroup), "--quiet", "--", PYTHON, "-c", script)
    pid, terminal = os.forkpty()
    if pid == 0:
        os.chdir(ROOT)
        os.execvpe(line[0], line, environment())
    try:
        shown = b""
        while b"ready" not in shown:
            shown += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 41
    finally:
        os.close(terminal)


def test_ctrl_c_before_it_starts_is_the_commands(chadthrottle: Command, leaf_cgroup: Path) -> None:
    """The whole group gets it while the limit is set; COMMAND, masked until then, dies of it."""
    with running(chadthrottle, "1mbit", "--at", str(leaf_cgroup), "--", "sleep", "1000") as process:
        wait_for_child(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(patient(10)) == 128 + signal.SIGINT


def test_killed_at_the_barrier_nothing_runs(chadthrottle: Command, leaf_cgroup: Path, bpffs: Path) -> None:
    """The parent is stopped for good while it sets the limit."""
    holder = (
        "import fcntl, os, sys, time; os.mkdir('/sys/fs/bpf/chadthrottle', 0o700); "
        "fd = os.open('/sys/fs/bpf/chadthrottle', os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(1000)"
    )
    command = chadthrottle.line()
    command = command[: command.index("sh", 6) + 1]
    with subprocess.Popen([*command, PYTHON, "-c", holder], stdout=subprocess.PIPE) as lock:
        try:
            assert lock.stdout is not None
            lock.stdout.readline()
            with running(chadthrottle, "1mbit", "--at", str(leaf_cgroup), "--", "echo", "ran") as process:
                child = wait_for_child(process.pid)
                process.kill()
                out, _ = process.communicate(timeout=patient(10))
                assert out == ""
            deadline = time.monotonic() + patient(5)
            while Path(f"/proc/{child}").exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            lock.kill()
            lock.wait()
            (bpffs / "chadthrottle").rmdir()


def wait_for_child(pid: int) -> int:
    """The PID of what `chadthrottle run` has forked. Before, the process is the shell that mounts."""
    deadline = time.monotonic() + patient(5)
    while True:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        if found and b"python" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
            (child,) = found
            return int(child)
        assert time.monotonic() < deadline
        time.sleep(0.005)
