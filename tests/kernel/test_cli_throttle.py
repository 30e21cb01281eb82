"""`chadthrottle throttle|list|release` as a user meets them: as processes, with good and with bad input."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chadthrottle.procs import read_stat
from tests.support.cgroups import cgroup2_root
from tests.support.command import Answer, Command
from tests.support.leftovers import Machine
from tests.support.readable import readable_package

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")


@pytest.fixture
def child() -> Iterator[int]:
    """A process that sleeps."""
    with sleeping() as pid:
        yield pid


@contextmanager
def sleeping(*wrapper: str) -> Iterator[int]:
    with subprocess.Popen([*wrapper, "sleep", "1000"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def refused(answer: Answer, status: int, *said: str) -> None:
    """It failed as the contract says, on one screen, and said so."""
    assert answer.status == status, answer
    assert answer.out == ""
    assert answer.err.startswith("error: "), answer.err
    answer.require_one_screen()
    text = " ".join(answer.err.split())
    for each in said:
        assert each in text


@pytest.fixture
def nothing_changed(child: int, bpffs: Path) -> Iterator[None]:
    """No pin, no program, no map, no link: looked at while the child still lives."""
    before = Machine.now()
    yield
    assert not (bpffs / "chadthrottle").exists()
    assert before.additions() == []
    assert read_stat(child) is not None


# What works


def test_a_limit_from_beginning_to_end(chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    answer = chadthrottle("throttle", child, "10mbit", "--down", "1.25MB/s", "--at", leaf_cgroup)
    assert (answer.status, answer.err) == (0, "")
    answer.require_one_screen()
    # The first measurement may not be there yet.
    assert answer.out.replace("10 Mbit/s (", "10 Mbit/s, now 0 bit/s (").splitlines() == [
        f"sleep (PID {child}) limited:",
        "  upload    1.25 MB/s = 10 Mbit/s, now 0 bit/s (cgroup)",
        "  download  1.25 MB/s = 10 Mbit/s, now 0 bit/s (queue)",
        f"End it: sudo chadthrottle release {child}",
    ]
    listed = chadthrottle("list")
    listed.require_one_screen()
    shown = " ".join(listed.out.split())
    assert shown.startswith(f"sleep (PID {child}); hooks at {leaf_cgroup} upload 1.25 MB/s = 10 Mbit/s")
    answer = chadthrottle("release", child)
    assert answer == Answer(0, f"PID {child} released\nnothing is limited; all hooks are removed\n", "")
    assert chadthrottle("list") == Answer(0, "nothing is limited\n", "")


def test_a_second_throttle_changes_the_direction_it_names(chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    chadthrottle("throttle", child, "--up", "1mbit", "--at", leaf_cgroup)
    answer = chadthrottle("throttle", child, "--down", "2mbit", "--at", leaf_cgroup)
    first, upload, download, _ = answer.out.splitlines()
    assert first == f"sleep (PID {child}) changed:"
    assert upload.startswith("  upload    125 kB/s = 1 Mbit/s")
    assert download.startswith("  download  250 kB/s = 2 Mbit/s")
    assert chadthrottle("release", child, "--up").status == 0
    (rule,) = chadthrottle("list", "--json").json()["rules"]
    assert rule["up"] is None
    assert rule["down"]["asked_bytes_per_s"] == 250_000
    assert chadthrottle("release", "--all").status == 0


def test_the_limit_includes_children(chadthrottle: Command, leaf_cgroup: Path) -> None:
    with subprocess.Popen(["sh", "-c", "sleep 1000 & echo; wait"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (grandchild,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("ascii").split()
        try:
            answer = chadthrottle.forked("throttle", process.pid, "1mbit", "--at", leaf_cgroup)
            assert answer.out.splitlines()[0] == f"sh (PID {process.pid}) and 1 more limited:"
            assert chadthrottle.forked("release", "--all").status == 0
        finally:
            os.kill(int(grandchild), signal.SIGKILL)
            process.kill()


def test_the_limit_can_exclude_children(chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    answer = chadthrottle.forked("throttle", child, "1mbit", "--no-children", "--at", leaf_cgroup, "--json")
    assert answer.json()["rules"][0]["children"] is False
    assert chadthrottle.forked("list", "--json").json()["rules"][0]["children"] is False
    assert chadthrottle.forked("release", child).status == 0


def test_json(chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    """The schema, pinned: a key may be added, none may go or change without another number."""
    stat = read_stat(child)
    assert stat is not None
    set_up = chadthrottle.forked("throttle", child, "--up", "1mbit", "--duration", "1h", "--at", leaf_cgroup, "--json")
    for answer in set_up, chadthrottle.forked("list", "--json"):
        assert (answer.status, answer.err) == (0, "")
        told = answer.json()
        (rule,) = told.pop("rules")
        assert told == {"schema": 1, "notes": []}
        up = rule.pop("up")
        assert up.pop("achieved_bytes_per_s") in (None, 0)
        assert up == {
            "asked_bytes_per_s": 125_000,
            "dropped_packets": 0,
            "marked_packets": 0,
            "retransmitted_packets": 0,
            "policed_share": None,
        }
        assert 3500 < rule.pop("remaining_s") <= 3600
        assert rule == {
            "pid": child,
            "start_time": stat.start_ticks,
            "name": "sleep",
            "down": None,
            "engine": {"up": "cgroup", "down": None},
            "attach": {"method": "link", "at": str(leaf_cgroup)},
            "children": True,
            "scope": "all",
            "held_by": None,
        }
    assert chadthrottle.forked("release", child).status == 0
    assert chadthrottle.forked("list", "--json") == Answer(0, '{"schema": 1, "rules": [], "notes": []}\n', "")


@pytest.mark.usefixtures("nothing_changed")
def test_errors_as_json(chadthrottle: Command, leaf_cgroup: Path) -> None:
    for words, status, message in (
        (["throttle", "1", "1mbit", "--at", str(leaf_cgroup)], 2, "PID 1 is the system itself"),
        (["throttle", "4194304", "1mbit"], 4, "there is no process 4194304"),
        (["throttle", "1", "1M"], 2, "RATE 1M"),
        (["throttle", "--nonsense"], 2, "No such option"),
        (["list", "extra"], 2, "unexpected extra argument"),
    ):
        answer = chadthrottle.forked(*words, "--json")
        assert (answer.status, answer.err) == (status, "")
        told = answer.json()
        assert list(told) == ["schema", "error"]
        assert told["schema"] == 1
        assert list(told["error"]) == ["code", "message", "hint"]
        assert told["error"]["code"] == status
        assert message in told["error"]["message"]


def test_quiet_says_nothing_of_success(chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    assert chadthrottle.forked("throttle", child, "1mbit", "--at", leaf_cgroup, "--quiet") == Answer(0, "", "")
    assert f"PID {child}" in chadthrottle.forked("--quiet", "list").out  # that is what it was asked
    assert chadthrottle.forked("release", child, "--quiet") == Answer(0, "", "")
    assert chadthrottle.forked("release", child, "--quiet").err.startswith("error: ")


CALL = r"\d\d:\d\d:\d\d\.\d{6} bpf\(BPF_\w+\) = (\d+|E[A-Z]+), \d+ us"


@pytest.mark.parametrize("how", ["option", "option first", "variable"])
def test_debug_logs_each_call(how: str, chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    words = ["throttle", str(child), "1mbit", "--at", str(leaf_cgroup)]
    if how == "variable":
        answer = chadthrottle.forked(*words, variables={"CHADTHROTTLE_LOG": "debug"})
    else:
        answer = chadthrottle.forked(*(["--debug", *words] if how == "option first" else [*words, "--debug"]))
    assert answer.status == 0
    lines = answer.err.splitlines()
    assert [line for line in lines if not re.fullmatch(CALL, line)] == []
    for command in "BPF_PROG_LOAD", "BPF_MAP_CREATE", "BPF_LINK_CREATE", "BPF_OBJ_PIN":
        assert f"bpf({command})" in answer.err
    assert "limited:" in answer.out
    assert chadthrottle.forked("release", "--all").status == 0


def test_the_log_can_go_to_a_file(chadthrottle: Command, child: int, leaf_cgroup: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    answer = chadthrottle.forked("throttle", child, "1mbit", "--at", leaf_cgroup, "--log", log)
    assert (answer.status, answer.err) == (0, "")
    first = log.read_text("ascii")
    assert "bpf(BPF_LINK_CREATE)" in first
    assert chadthrottle.forked("release", "--all", "--log", log).status == 0
    assert log.read_text("ascii").startswith(first)
    assert len(log.read_text("ascii")) > len(first)


# What does not


@pytest.mark.parametrize(
    ("pid", "status", "said"),
    [
        ("0", 2, "process numbers start at 1"),
        ("1", 2, "the system itself"),
        ("-5", 2, "-5 is no PID: process numbers start at 1"),
        ("4194304", 4, "there is no process 4194304"),
        ("99999999999999999999", 4, "PIDs end at"),
        ("12.5", 2, "is no PID"),
        ("", 2, "is no PID"),
        ("no-such-name-anywhere", 2, "is no PID, and no running process has that name"),
    ],
)
@pytest.mark.usefixtures("nothing_changed")
def test_what_is_no_process(pid: str, status: int, said: str, chadthrottle: Command, leaf_cgroup: Path) -> None:
    refused(chadthrottle.forked("throttle", pid, "1mbit", "--at", leaf_cgroup), status, said)


@pytest.mark.usefixtures("nothing_changed")
def test_a_dead_process(chadthrottle: Command, leaf_cgroup: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    refused(chadthrottle.forked("throttle", process.pid, "1mbit", "--at", leaf_cgroup), 4, "it has ended")


@pytest.mark.usefixtures("nothing_changed")
def test_a_zombie(chadthrottle: Command, leaf_cgroup: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        refused(chadthrottle.forked("throttle", process.pid, "1mbit", "--at", leaf_cgroup), 4, "zombie")


@pytest.mark.usefixtures("nothing_changed")
def test_a_kernel_thread(chadthrottle: Command, leaf_cgroup: Path) -> None:
    stat = read_stat(2)
    assert stat is not None
    assert stat.is_kernel_thread
    refused(chadthrottle.forked("throttle", 2, "1mbit", "--at", leaf_cgroup), 2, "kernel thread")


@pytest.mark.usefixtures("nothing_changed")
def test_a_thread(chadthrottle: Command, leaf_cgroup: Path) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        answer = chadthrottle.forked("throttle", str(thread.native_id), "1mbit", "--at", leaf_cgroup)
        refused(answer, 2, f"is a thread of process {os.getpid()}", f"sudo chadthrottle throttle {os.getpid()} RATE")
    finally:
        done.set()
        thread.join()


@pytest.mark.usefixtures("nothing_changed")
def test_a_name(chadthrottle: Command, leaf_cgroup: Path, tmp_path: Path) -> None:
    program = tmp_path / "ct-some-name"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "1000"]) as one, subprocess.Popen([program, "1000"]) as two:
        try:
            answer = chadthrottle.forked("throttle", program.name, "1mbit", "--at", leaf_cgroup)
            refused(answer, 2, "2 processes have it")
            lines = [line for line in answer.err.splitlines() if line.startswith("sudo chadthrottle throttle ")]
            assert [int(line.split()[3]) for line in lines] == sorted([one.pid, two.pid])
        finally:
            one.kill()
            two.kill()


def test_the_shell_it_was_started_from(chadthrottle: Command, leaf_cgroup: Path, bpffs: Path) -> None:
    # Behind the wrapper comes the command itself, words included: the shell runs it with its own number.
    script = 'python=$1 c=$2 program=$3; shift 3; "$python" "$c" "$program" throttle $$ 1mbit "$@"; exit $?'

    def run(*words: str) -> Answer:
        return chadthrottle("--at", leaf_cgroup, *words, wrapper=("sh", "-c", script, "sh"))

    refused(run(), 2, "is what this command was started from", "--duration 60s")
    assert not (bpffs / "chadthrottle").exists()
    for allowed in ("--force",), ("--duration", "1h"):
        answer = run(*allowed)
        assert (answer.status, answer.err) == (0, "")
        assert chadthrottle.forked("release", "--all").status == 0


@pytest.mark.usefixtures("nothing_changed")
def test_another_users_process_without_root(chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    with readable_package() as package:
        answer = chadthrottle("throttle", child, "1mbit", "--at", leaf_cgroup, wrapper=without_root(package))
    refused(answer, 3, "belongs to another user (uid 0)", "Run it with sudo.")


@pytest.mark.usefixtures("nothing_changed")
def test_ones_own_process_without_root(chadthrottle: Command, leaf_cgroup: Path) -> None:
    with sleeping(*NOBODY) as pid, readable_package() as package:
        answer = chadthrottle("throttle", pid, "1mbit", "--at", leaf_cgroup, wrapper=without_root(package))
        refused(answer, 3, "sudo")


def without_root(package: Path) -> tuple[str, ...]:
    """Nobody may not read every checkout: the package is a copy, other libraries come before root is given up."""
    program = (
        f"import os, sys; sys.path.insert(0, {str(package)!r}); import click, elftools.elf.structs, textwrap; "
        "import chadthrottle.bpf.elf, chadthrottle.cli as cli; "
        "sys.argv = sys.argv[3:]; os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(cli.main())"
    )
    # The command as it is follows: three words, the last of which stands for the program's name.
    return (sys.executable, "-c", program)


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        ("0", "below the lowest rate"),
        ("0mbit", "below the lowest rate"),
        ("7kbit", "below the lowest rate, 8kbit"),
        ("101gbit", "above the highest rate, 100gbit"),
        ("1M", "1 megabit per second is 1mbit, 1 megabyte per second is 1MB/s"),
        ("10mbps", "10 megabits per second is 10mbit, 10 megabytes per second is 10MB/s"),
        ("500K", "500 kilobits"),
        ("500", "500 kilobits"),
        ("1e6bit", "no exponents"),
        ("1,5mbit", "decimals come after a point"),
        ("nan", "has to be a number"),
        ("fast", "that is no rate"),
        ("", "that is no rate"),
        ("\u0661mbit", "that is no rate"),
        ("9" * 4000 + "bit", "at most 32 characters"),
    ],
)
@pytest.mark.usefixtures("nothing_changed")
def test_wrong_rates(rate: str, said: str, chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    refused(chadthrottle.forked("throttle", child, rate, "--at", leaf_cgroup), 2, "error: RATE", said)
    refused(chadthrottle.forked("throttle", child, "--up", rate, "--at", leaf_cgroup), 2, "error: --up", said)


@pytest.mark.usefixtures("nothing_changed")
def test_a_negative_rate(chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    refused(chadthrottle.forked("throttle", child, "--at", leaf_cgroup, "--down", "-1mbit"), 2, "cannot be negative")
    refused(
        chadthrottle.forked("throttle", child, "--at", leaf_cgroup, "--down", "-1"),
        2,
        "--down -1: it cannot be negative",
    )
    refused(chadthrottle.forked("throttle", child, "--at", leaf_cgroup, "--", "-1mbit"), 2, "cannot be negative")


@pytest.mark.usefixtures("nothing_changed")
def test_no_rate(chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    refused(chadthrottle.forked("throttle", child, "--at", leaf_cgroup), 2, "no rate given")


@pytest.mark.usefixtures("nothing_changed")
def test_bpffs_is_read_only(chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    answer = chadthrottle.forked(
        "throttle", child, "1mbit", "--at", leaf_cgroup, setup="mount -o remount,bind,ro /sys/fs/bpf"
    )
    refused(answer, 5, "EROFS", "sudo mount -o remount,rw /sys/fs/bpf")


@pytest.mark.usefixtures("nothing_changed")
def test_no_cgroup2(chadthrottle: Command, child: int) -> None:
    away = "awk '$3 == \"cgroup2\" {print $2}' /proc/mounts | sort -r | xargs -n1 umount -l"
    for at in "root", "leaf":
        refused(
            chadthrottle.forked("throttle", child, "1mbit", "--at", at, setup=away), 5, "cgroup2 is not mounted here"
        )


@pytest.mark.parametrize(
    "lacking", ["-all", "-sys_admin,-bpf", "-sys_admin,-net_admin", "-sys_admin,-perfmon", "-sys_admin", "-sys_ptrace"]
)
@pytest.mark.usefixtures("nothing_changed")
def test_missing_capabilities(lacking: str, chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    wrapper = ("setpriv", f"--bounding-set={lacking}", "--")
    answer = chadthrottle("throttle", child, "1mbit", "--at", leaf_cgroup, wrapper=wrapper)
    refused(answer, 3, "CAP_" if lacking != "-all" else "")


@pytest.mark.parametrize("at", ["file", "nowhere", "relative", "v1", "tmpfs", ""])
@pytest.mark.usefixtures("nothing_changed")
def test_where_no_hooks_can_be(at: str, chadthrottle: Command, child: int, leaf_cgroup: Path, tmp_path: Path) -> None:
    root = cgroup2_root()
    v1 = tmp_path / "v1"
    v1.mkdir()
    place, said = {
        "file": (leaf_cgroup / "cgroup.procs", "this is a file; a cgroup is a directory"),
        "nowhere": (leaf_cgroup / "nowhere", "there is no such cgroup"),
        "relative": ("system.slice", "neither root, leaf nor an absolute path"),
        "v1": (v1, "a cgroup v1 directory; BPF attaches to cgroup2 only"),
        "tmpfs": ("/dev/shm", f"not in cgroup2, but on tmpfs; BPF attaches to cgroup2 only cgroup2 is at {root}."),
        "": ("", "neither root, leaf nor an absolute path"),
    }[at]
    setup = f"mount -t cgroup -o none,name=ct-test none {v1}" if at == "v1" else ""
    refused(chadthrottle.forked("throttle", child, "1mbit", "--at", place, setup=setup), 2, said)


def test_a_path_without_the_mount_point(chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    answer = chadthrottle.forked("throttle", child, "1mbit", "--at", f"/{leaf_cgroup.name}")
    refused(answer, 2, f"Did you mean {leaf_cgroup}?")


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        (["--attach", "best"], {}, "--attach best is no way to attach"),
        (["--scope", "all"], {}, "--scope all is no scope"),
        (["--engine", "fast"], {}, "--engine fast is no engine"),
        ([], {"CHADTHROTTLE_BPF_ATTACH_METHOD": "best"}, "CHADTHROTTLE_BPF_ATTACH_METHOD best is no way to attach"),
        ([], {"CHADTHROTTLE_TEST_ROOT_CGROUP": "1"}, "contradicts CHADTHROTTLE_TEST_ROOT_CGROUP=1"),
        ([], {"CHADTHROTTLE_TEST_ROOT_CGROUP": "yes"}, "CHADTHROTTLE_TEST_ROOT_CGROUP is 'yes', which means nothing"),
        ([], {"CHADTHROTTLE_LOG": "all"}, "CHADTHROTTLE_LOG is 'all', which means nothing"),
    ],
)
@pytest.mark.usefixtures("nothing_changed")
def test_options_and_variables_that_mean_nothing(
    words: list[str], variables: dict[str, str], said: str, chadthrottle: Command, child: int, leaf_cgroup: Path
) -> None:
    refused(chadthrottle.forked("throttle", child, "1mbit", "--at", leaf_cgroup, *words, variables=variables), 2, said)


def test_the_flag_wins_over_the_variable(chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    answer = chadthrottle.forked(
        "throttle",
        child,
        "1mbit",
        "--at",
        leaf_cgroup,
        "--attach",
        "link",
        variables={"CHADTHROTTLE_BPF_ATTACH_METHOD": "legacy"},
    )
    assert answer.status == 0
    assert chadthrottle.forked("release", "--all").status == 0


def test_another_place_than_the_hooks_have(chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    chadthrottle.forked("throttle", child, "1mbit", "--at", leaf_cgroup)
    below = leaf_cgroup / "below"
    below.mkdir()
    refused(chadthrottle.forked("throttle", child, "2mbit", "--at", below), 2, f"sit on {leaf_cgroup}")
    (rule,) = chadthrottle.forked("list", "--json").json()["rules"]
    assert rule["up"]["asked_bytes_per_s"] == 125_000
    assert chadthrottle.forked("release", "--all").status == 0


def test_releasing_what_is_not_limited(chadthrottle: Command, child: int, leaf_cgroup: Path) -> None:
    refused(chadthrottle.forked("release", child), 4, "has no limit of its own")
    refused(chadthrottle.forked("release", "-5"), 2, "-5 is no PID")
    refused(chadthrottle.forked("release"), 2, "name the processes to release, or --all")
    refused(chadthrottle.forked("release", child, "--all"), 2, "name the processes to release, or --all")
    refused(chadthrottle.forked("release", "--all", "--up"), 2, "--all ends everything")
    chadthrottle.forked("throttle", child, "1mbit", "--at", leaf_cgroup)
    refused(chadthrottle.forked("release", child, os.getpid()), 4, f"Limited processes: {child}.")
    assert len(chadthrottle.forked("list", "--json").json()["rules"]) == 1
    assert chadthrottle.forked("release", child).status == 0


def test_release_all_with_nothing_there(chadthrottle: Command) -> None:
    assert chadthrottle.forked("release", "--all") == Answer(0, "nothing is limited; all hooks are removed\n", "")
