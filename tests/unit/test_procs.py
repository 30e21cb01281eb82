"""Processes: what a PID argument means. Real processes, no root."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chadthrottle import procs
from chadthrottle.errors import ChadthrottleError, UsageError
from chadthrottle.procs.stat import _below, parse_stat, printable

Spawn = Callable[..., int]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start a process and learn its PID; all are killed, with their children, at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*command: str, executable: str | None = None) -> int:
        process = subprocess.Popen(command, executable=executable, start_new_session=True, stdout=subprocess.DEVNULL)
        running.append(process)
        return process.pid

    yield start
    for process in running:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited for 10 s"
        time.sleep(0.002)


def pids(found: set[procs.Identity]) -> set[int]:
    return {each.pid for each in found}


def stat_line(name: bytes = b"x", pid: int = 7, ppid: int = 1, state: bytes = b"S", threads: int = 1) -> bytes:
    numbers = [b"0"] * 49
    numbers[0], numbers[16], numbers[18] = str(ppid).encode(), str(threads).encode(), b"4242"
    return b"%d (%s) %s %s\n" % (pid, name, state, b" ".join(numbers))


def test_a_name_may_hold_what_separates_fields() -> None:
    stat = parse_stat(stat_line(b") S 1 (a\n\x1b[31m\xff"))
    assert (stat.pid, stat.ppid, stat.state, stat.threads, stat.start_ticks) == (7, 1, "S", 1, 4242)
    assert stat.name == ") S 1 (a??[31m\N{REPLACEMENT CHARACTER}"


def test_a_zombie_leader_with_living_threads_is_not_dead() -> None:
    assert parse_stat(stat_line(state=b"Z", threads=1)).is_dead
    assert not parse_stat(stat_line(state=b"Z", threads=2)).is_dead
    assert not parse_stat(stat_line(state=b"S", threads=1)).is_dead


def test_nothing_unprintable_reaches_a_terminal_or_a_shell() -> None:
    assert printable("a\nb\x1b[2Jc\u202ed") == "a?b?[2Jc?d"


def test_identity_of_this_process() -> None:
    stat = procs.read_stat(os.getpid())
    assert stat is not None
    assert stat.ppid == os.getppid()
    assert procs.is_alive(stat.identity)
    assert not procs.is_alive(procs.Identity(stat.pid, stat.start_ticks + 1))
    started = procs.started_at(stat.identity)
    assert Path(f"/proc/{stat.pid}").stat().st_ctime - 60 < started <= time.time()


def test_start_time_is_boot_time_in_ticks(spawn: Spawn) -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    stat = procs.read_stat(spawn("sleep", "60"))
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert stat is not None
    assert before // procs.TICK_NS <= stat.start_ticks <= after // procs.TICK_NS
    assert stat.identity.start_boottime_ns <= after


def test_exec_keeps_the_identity(spawn: Spawn, tmp_path: Path) -> None:
    go = tmp_path / "go"
    pid = spawn("sh", "-c", f"until [ -e {shlex.quote(str(go))} ]; do :; done; exec sleep 60")
    before = procs.read_stat(pid)
    go.touch()
    assert before is not None
    until(lambda: (now := procs.read_stat(pid)) is not None and now.name == "sleep")
    assert procs.is_alive(before.identity)


def test_a_process_is_found(spawn: Spawn) -> None:
    pid = spawn("sleep", "60")
    process = procs.resolve(f" {pid} ")
    assert (process.pid, process.uid, process.ppid) == (pid, os.getuid(), os.getpid())
    until(lambda: procs.inspect(pid).name == "sleep")


@pytest.mark.parametrize(
    ("argument", "code", "says"),
    [
        ("0", 2, "start at 1"),
        ("00", 2, "start at 1"),
        ("-1", 2, "start at 1"),
        ("-1234", 2, "start at 1"),
        ("1", 2, "the system itself"),
        ("01", 2, "the system itself"),
        ("", 2, "whole number"),
        ("  ", 2, "whole number"),
        ("1.5", 2, "whole number"),
        ("1,2", 2, "whole number"),
        ("+5", 2, "whole number"),
        ("1_000", 2, "whole number"),
        ("no-such-program-of-this-name", 2, "no running process has that name"),
        ("\N{FULLWIDTH DIGIT ONE}2", 2, "no running process has that name"),
        ("x\ny\x1b[2J", 2, "“x?y?[2J”"),
        ("4194305", 4, "PIDs end at"),
        ("9" * 6000, 4, "PIDs end at"),
    ],
)
def test_what_is_no_process(argument: str, code: int, says: str) -> None:
    with pytest.raises(ChadthrottleError) as caught:
        procs.resolve(argument)
    assert caught.value.exit_code == code
    assert says in caught.value.message
    assert len(str(caught.value).splitlines()) < 24


def test_a_dead_process_is_none() -> None:
    finished = subprocess.Popen(["true"])
    finished.wait()
    with pytest.raises(procs.NoSuchProcessError) as caught:
        procs.resolve(str(finished.pid))
    assert caught.value.exit_code == 4


def test_a_zombie_is_none_and_says_whose() -> None:
    finished = subprocess.Popen(["true"])
    try:
        until(lambda: (stat := procs.read_stat(finished.pid)) is not None and stat.is_dead)
        with pytest.raises(procs.NoSuchProcessError, match=f"zombie.*PID {os.getpid()}"):
            procs.resolve(str(finished.pid))
        with pytest.raises(procs.NoSuchProcessError):
            procs.open_pidfd(procs.Identity(finished.pid, 0))
    finally:
        finished.wait()


LEADER_EXITS = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=[60]).start(); \
ctypes.CDLL(None).pthread_exit(None)"


def test_a_process_whose_main_thread_has_exited_lives(spawn: Spawn) -> None:
    pid = spawn(sys.executable, "-c", LEADER_EXITS)
    until(lambda: (stat := procs.read_stat(pid)) is not None and stat.state == "Z")
    process = procs.resolve(str(pid))
    assert procs.is_alive(process.identity)
    assert process.identity in procs.descendants(os.getpid())
    os.close(procs.open_pidfd(process.identity))


def test_a_thread_id_names_its_process() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(procs.ThreadIdError, match=f"thread of process {os.getpid()}") as caught:
            procs.resolve(str(thread.native_id))
        assert (caught.value.pid, caught.value.exit_code) == (os.getpid(), 2)
        assert caught.value.hint == f"sudo chadthrottle throttle {os.getpid()} RATE"
    finally:
        stop.set()
        thread.join()


def test_kernel_threads_are_refused() -> None:
    stat = procs.read_stat(2)
    if stat is None or not stat.is_kernel_thread:
        pytest.skip("PID 2 is no kernel thread here: a container")
    with pytest.raises(procs.UntouchableProcessError, match="kernel thread") as caught:
        procs.resolve("2")
    assert caught.value.exit_code == 2


def test_this_command_and_its_ancestors() -> None:
    assert os.getppid() in [each.pid for each in procs.ancestors()]
    with pytest.raises(procs.UntouchableProcessError, match="this very command"):
        procs.resolve(str(os.getpid()), allow_ancestors=True)
    script = """if True:
        import sys
        from chadthrottle import procs
        try:
            print("found", procs.inspect(int(sys.argv[1]), allow_ancestors=len(sys.argv) > 2).pid)
        except procs.OwnSessionError as error:
            print(error.exit_code, error)
    """
    command = [sys.executable, "-c", script, str(os.getpid())]
    refused = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert refused.startswith("2 ")
    assert "--duration" in refused
    assert "--force" in refused
    allowed = subprocess.run([*command, "anyway"], capture_output=True, text=True, check=True).stdout
    assert allowed == f"found {os.getpid()}\n"


def test_a_name_lists_commands_to_copy(spawn: Spawn, tmp_path: Path) -> None:
    # Longer than comm's 15 bytes, with what a shell or a terminal would act on.
    program = tmp_path / "ct-firefox-developer-edition"
    program.symlink_to("/bin/sleep")
    found = [spawn(str(program), "60") for _ in range(2)]
    until(lambda: all(Path(f"/proc/{pid}/cmdline").read_bytes().startswith(bytes(program)) for pid in found))
    with pytest.raises(procs.ProcessNameError, match="is a name, not a PID; 2 processes have it") as caught:
        procs.resolve("CT-firefox-developer-edition")
    error = caught.value
    assert (error.exit_code, error.pids) == (2, sorted(found))
    assert error.hint is not None
    lines = error.hint.splitlines()
    assert len(lines) == 2
    for pid, line in zip(sorted(found), lines, strict=True):
        assert line.startswith(f"sudo chadthrottle throttle {pid} RATE  # ct-firefox-devel")
        assert ", started " in line
        assert ", user " in line
    with pytest.raises(procs.ProcessNameError, match="2 processes have it") as caught:
        procs.parse_pid("firefox-developer", "sudo chadthrottle release {pid}")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"sudo chadthrottle release {min(found)}  # ")


def name_of(pid: int) -> str:
    stat = procs.read_stat(pid)
    return stat.name if stat is not None else ""


def test_many_of_a_name_fit_a_screen_parents_first(spawn: Spawn, tmp_path: Path) -> None:
    program = tmp_path / "ct-many"
    program.symlink_to("/bin/sh")
    parent = spawn(str(program), "-c", f"for i in $(seq 30); do {program} -c 'sleep 60; :' & done; wait")
    # Between fork and exec a sleep still has its parent's name.
    until(lambda: [name_of(p.pid) for p in procs.descendants(parent)].count("sleep") == 30)
    with pytest.raises(procs.ProcessNameError, match="31 processes") as caught:
        procs.resolve("ct-many")
    assert caught.value.pids[0] == parent
    assert len(str(caught.value).splitlines()) < 24
    assert "… and 19 more" in str(caught.value)


def test_descendants_are_all_of_the_tree(spawn: Spawn) -> None:
    pid = spawn("sh", "-c", "sh -c 'sleep 60 & sleep 60 & wait' & sleep 60 & wait")
    other = spawn("sleep", "60")
    until(lambda: len(procs.descendants(pid)) == 4)
    found = pids(procs.descendants(pid))
    assert pid not in found
    assert other not in found
    assert found | {pid, other} <= pids(procs.descendants(os.getpid()))


def test_children_of_a_thread_are_the_process_s(spawn: Spawn) -> None:
    script = "import subprocess, threading; \
threading.Thread(target=lambda: subprocess.run(['sleep', '60'])).start()"
    pid = spawn(sys.executable, "-c", script)
    until(lambda: len(procs.descendants(pid)) == 1)


def test_what_a_dead_parent_left_is_still_a_descendant(spawn: Spawn, tmp_path: Path) -> None:
    told, go = tmp_path / "pid", tmp_path / "go"
    inner = f"sh -c 'sleep 60; :' & echo $! >{told}.new; mv {told}.new {told}; until [ -e {go} ]; do sleep 0.01; done"
    # The inner shell dies; who adopts its child is not below `pid`.
    pid = spawn("sh", "-c", f"sh -c {shlex.quote(inner)}; sleep 60; :")
    until(told.exists)
    orphan = int(told.read_text())
    known = procs.descendants(pid)
    assert orphan in pids(known)
    go.touch()
    until(lambda: orphan not in pids(procs.descendants(pid)))
    later = procs.descendants(pid, known)
    # Itself, and what hangs below it.
    assert orphan in pids(later)
    assert pids(procs.descendants(orphan)) <= pids(later)


def test_a_number_used_again_is_no_descendant() -> None:
    def stat(pid: int, ppid: int, start: int) -> procs.Stat:
        return procs.Stat(pid, "x", "S", ppid, 0, 1, start)

    # 20 claims a parent younger than itself: its parent died, and 10 is a new process.
    table = {10: stat(10, 1, 500), 20: stat(20, 10, 400), 30: stat(30, 10, 600)}
    assert [each.pid for each in _below(table, {10}, {})] == [30]
    me = procs.read_stat(os.getpid())
    assert me is not None
    stale = procs.Identity(me.pid, me.start_ticks - 1)
    assert me.identity not in procs.descendants(1, {stale}) - procs.descendants(1)


def test_no_child_is_missed_while_others_come_and_go(spawn: Spawn) -> None:
    pid = spawn("sh", "-c", "for i in $(seq 20); do sleep 60 & done; while :; do true & wait $!; /bin/true; done")

    def sleepers() -> set[procs.Identity]:
        return {each for each in procs.descendants(pid) if (s := procs.read_stat(each.pid)) and s.name == "sleep"}

    until(lambda: len(sleepers()) == 20)
    steady = sleepers()
    for _ in range(30):
        assert steady <= procs.descendants(pid)


def test_a_pidfd_is_of_that_process_only(spawn: Spawn) -> None:
    process = procs.inspect(spawn("sleep", "60"))
    fd = procs.open_pidfd(process.identity)
    try:
        signal.pidfd_send_signal(fd, 0)
    finally:
        os.close(fd)
    open_before = os.listdir("/proc/self/fd")
    with pytest.raises(procs.NoSuchProcessError):
        procs.open_pidfd(procs.Identity(process.pid, process.identity.start_ticks - 1))
    assert len(os.listdir("/proc/self/fd")) == len(open_before)


def test_psutil_is_not_imported_for_a_pid() -> None:
    script = "import sys; from chadthrottle import procs\n\
procs.inspect(int(sys.argv[1]), allow_ancestors=True); procs.descendants(1); assert 'psutil' not in sys.modules"
    subprocess.run([sys.executable, "-c", script, str(os.getpid())], check=True)


def test_refusals_are_usage_errors() -> None:
    for kind in (procs.ProcessNameError, procs.ThreadIdError, procs.UntouchableProcessError, procs.OwnSessionError):
        assert issubclass(kind, UsageError)
