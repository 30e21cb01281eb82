"""`chadthrottle verify`, on real transfers: the program's, and its own."""

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chadthrottle.abi import ThrottleRule
from chadthrottle.enforce.hooks import Hooks, open_pinned, pins_of_this_version
from chadthrottle.enforce.membership import members
from tests.support.command import ROOT, Command, environment
from tests.support.network import Endpoint
from tests.support.patience import patient
from tests.support.transfer import endless_upload_udp

Pair = tuple[Endpoint, Endpoint]

MARGINS = "85% to 105% of the limit count as achieved"
MEASURED = {
    "verdict", "measured_by", "seconds", "asked_bytes_per_s", "achieved_bytes_per_s", "ratio",
    "carried_bytes_per_s", "dropped_packets",
}  # fmt: skip


@pytest.fixture
def idle(chadthrottle: Command) -> Iterator["subprocess.Popen[bytes]"]:
    """A program without traffic, outside of the cgroup that hooks sit on; its limits end with the test."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()
            assert chadthrottle("release", "--all").status in (0, 4)


@contextmanager
def hooks_of(bpffs: Path) -> Iterator[Hooks]:
    pins = pins_of_this_version(bpffs / "chadthrottle")
    with pins.lock(create=False), open_pinned(pins) as hooks:
        yield hooks


def disarm_the_rule(bpffs: Path) -> None:
    """Behind the command's back: what is listed is not enforced."""
    with hooks_of(bpffs) as hooks:
        ((key, value),) = list(hooks.rules.items())
        rule = ThrottleRule.from_buffer_copy(value)
        rule.armed_ns = 2**63
        hooks.rules.update(key, bytes(rule))


def members_of_the_rule(bpffs: Path) -> set[int]:
    with hooks_of(bpffs) as hooks:
        return {each.pid for key, _ in hooks.rules.items() for each in members(hooks, int.from_bytes(key, "little"))}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + patient(10)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_live_traffic_proves_one_direction_and_an_own_transfer_the_other(
    chadthrottle: Command, netns_pair: Pair, leaf_cgroup: Path
) -> None:
    with endless_upload_udp(netns_pair, leaf_cgroup) as pid:
        chadthrottle("throttle", pid, "20mbit", "--at", leaf_cgroup)
        answer = chadthrottle("verify", pid, "--duration", "1s")
        assert answer.status == 0, answer
        answer.require_one_screen()
        first, up, down, *others = answer.out.splitlines()
        assert re.fullmatch(rf"python3?[\d.]* \(PID {pid}\), measured over \d\.\d s:", first)
        assert re.fullmatch(r"  upload    holds, by live traffic \([\d.]+ Mbit/s of 20 Mbit/s, [\d.]+%\)", up)
        assert re.fullmatch(r"  download  holds, by own transfer \([\d.]+ Mbit/s of 20 Mbit/s, [\d.]+%\)", down)
        assert others == [
            "Own transfer: chadthrottle's, under the same limit, between two private network",
            "namespaces. It shared the limit with the program.",
            f"The limit holds: {MARGINS}.",
        ]
        assert chadthrottle.forked("release", "--all").status == 0


def test_own_transfer_proves_both_directions_of_an_idle_program(
    chadthrottle: Command, idle: "subprocess.Popen[bytes]", leaf_cgroup: Path
) -> None:
    chadthrottle.forked("throttle", idle.pid, "10mbit", "--up", "1mbit", "--at", leaf_cgroup)
    answer = chadthrottle.forked("verify", idle.pid, "--json", "--own")
    assert answer.status == 0, answer
    told = answer.json()
    assert told.keys() == {"schema", "rules"}
    (rule,) = told["rules"]
    assert rule.keys() == {"pid", "start_time", "name", "verdict", "seconds", "up", "down", "note"}
    assert (rule["pid"], rule["name"], rule["verdict"], rule["note"]) == (idle.pid, "sleep", "holds", None)
    for direction, asked in ("up", 125_000), ("down", 1_250_000):
        measured = rule[direction]
        assert measured.keys() == MEASURED
        assert (measured["measured_by"], measured["verdict"]) == ("own_transfer", "holds")
        assert (measured["asked_bytes_per_s"], measured["carried_bytes_per_s"]) == (asked, None)
        assert 0.85 <= measured["ratio"] <= 1.05
        assert 2 <= measured["seconds"] < patient(3)
    (listed,) = chadthrottle.forked("list", "--json").json()["rules"]
    assert listed["pid"] == idle.pid


def test_live_only_leaves_an_unused_direction_open(chadthrottle: Command, netns_pair: Pair, leaf_cgroup: Path) -> None:
    with endless_upload_udp(netns_pair, leaf_cgroup) as pid:
        chadthrottle.forked("throttle", pid, "20mbit", "--at", leaf_cgroup)
        answer = chadthrottle.forked("verify", pid, "--live", "--json", "--duration", "1s")
        assert answer.status == 0, answer
        (rule,) = answer.json()["rules"]
        assert (rule["up"]["verdict"], rule["up"]["measured_by"]) == ("holds", "live")
        assert (rule["down"]["verdict"], rule["down"]["measured_by"]) == ("not_measured", "live")
        assert 1 <= rule["seconds"] < patient(2)
        assert chadthrottle.forked("release", "--all").status == 0


def test_live_traffic_shows_that_a_limit_does_not_hold(
    chadthrottle: Command, netns_pair: Pair, leaf_cgroup: Path, bpffs: Path
) -> None:
    with endless_upload_udp(netns_pair, leaf_cgroup) as pid:
        chadthrottle.forked("throttle", pid, "--up", "1mbit", "--at", leaf_cgroup)
        disarm_the_rule(bpffs)
        answer = chadthrottle.forked("verify", "--json", "--duration", "1s")
        assert answer.status == 6
        (rule,) = answer.json()["rules"]
        assert (rule["verdict"], rule["up"]["measured_by"], rule["down"]) == ("exceeded", "live", None)
        assert rule["up"]["ratio"] > 1.05
        assert chadthrottle.forked("release", "--all").status == 0


def test_own_transfer_shows_that_a_limit_does_not_hold(
    chadthrottle: Command, idle: "subprocess.Popen[bytes]", leaf_cgroup: Path, bpffs: Path
) -> None:
    chadthrottle.forked("throttle", idle.pid, "--down", "1mbit", "--at", leaf_cgroup, "--engine", "cgroup")
    disarm_the_rule(bpffs)
    answer = chadthrottle.forked("verify", "--own")
    assert answer.status == 6
    answer.require_one_screen()
    assert "  upload    not limited\n  download  EXCEEDED, by own transfer (" in answer.out
    assert answer.out.endswith(f"The limit does not hold: {MARGINS}.\n")


def test_limit_beyond_what_the_machine_carries_is_told_apart(
    chadthrottle: Command, idle: "subprocess.Popen[bytes]", leaf_cgroup: Path
) -> None:
    chadthrottle.forked("throttle", idle.pid, "--up", "100gbit", "--at", leaf_cgroup)
    answer = chadthrottle.forked("verify", idle.pid, "--own")
    assert answer.status == 6
    answer.require_one_screen()
    assert re.search(r"without the\s+limit [\d.]+ .bit/s\)", answer.out)
    assert "This proves nothing: this machine carries too little" in answer.out


def test_live_only_without_traffic_is_no_success(
    chadthrottle: Command, idle: "subprocess.Popen[bytes]", leaf_cgroup: Path
) -> None:
    chadthrottle.forked("throttle", idle.pid, "1mbit", "--at", leaf_cgroup)
    answer = chadthrottle.forked("verify", "--live", "--duration", "1s")
    assert answer.status == 6
    assert "This proves nothing: a limit shows only while there is more to send" in answer.out
    answer.require_one_screen()


def test_no_namespace_no_own_transfer(
    chadthrottle: Command, idle: "subprocess.Popen[bytes]", leaf_cgroup: Path
) -> None:
    chadthrottle.forked("throttle", idle.pid, "1mbit", "--at", leaf_cgroup)
    weak = ("setpriv", "--bounding-set=-sys_admin")
    answer = chadthrottle("verify", "--duration", "1s", wrapper=weak)
    assert answer.status == 6, answer
    assert "No own transfer: cannot make a network namespace: EPERM" in answer.out
    required = chadthrottle("verify", "--own", wrapper=weak)
    assert (required.status, required.out) == (3, "")
    assert "cannot make a network namespace: EPERM" in required.err


def test_what_is_not_limited(chadthrottle: Command, idle: "subprocess.Popen[bytes]", leaf_cgroup: Path) -> None:
    assert chadthrottle.forked("verify").status == 4
    chadthrottle.forked("throttle", idle.pid, "1mbit", "--at", leaf_cgroup)
    answer = chadthrottle.forked("verify", 1, "--json")
    assert answer.status == 4
    assert answer.json()["error"]["hint"] == f"Limited processes: {idle.pid}."
    assert chadthrottle.forked("verify", idle.pid, "--live", "--own").status == 2


def test_program_that_ends_meanwhile(chadthrottle: Command, leaf_cgroup: Path) -> None:
    """Our guest does not keep the limit alive."""
    with subprocess.Popen(["sleep", "1.5"]) as process:
        chadthrottle.forked("throttle", process.pid, "1mbit", "--at", leaf_cgroup)
        answer = chadthrottle.forked("verify", process.pid, "--own")
    assert answer.status == 4, answer
    assert "the limit ended while it was measured" in answer.err
    assert chadthrottle.forked("list", "--json").json()["rules"] == []
    chadthrottle.forked("release", "--all")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ended_in_the_middle_it_leaves_nothing(
    number: signal.Signals, chadthrottle: Command, idle: "subprocess.Popen[bytes]", leaf_cgroup: Path, bpffs: Path
) -> None:
    chadthrottle.forked("throttle", idle.pid, "1mbit", "--at", leaf_cgroup)
    line = chadthrottle.line("verify", "--own")
    pipe = subprocess.PIPE
    with subprocess.Popen(line, cwd=ROOT, env=environment(), stdout=pipe, stderr=pipe, text=True) as process:
        wait_until(lambda: len(members_of_the_rule(bpffs)) == 2)
        (guest,) = members_of_the_rule(bpffs) - {idle.pid}
        assert (leaf_cgroup / "cgroup.procs").read_text(encoding="ascii").split() == [str(guest)]
        text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
        children = [int(child) for child in text.split()]
        namespaces = {namespace_of(child) for child in children}
        assert guest in children
        assert len(namespaces) == 2
        assert namespace_of(process.pid) not in namespaces
        process.send_signal(number)
        _, err = process.communicate(timeout=patient(5))
        assert "Traceback" not in err
    wait_until(lambda: members_of_the_rule(bpffs) == {idle.pid})
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    # Nobody is in them, and no file stands for them.
    assert not namespaces & {namespace_of(int(each.name)) for each in Path("/proc").glob("[0-9]*")}
    mounts = Path("/proc/self/mountinfo").read_text("utf-8")
    assert not [namespace for namespace in namespaces if namespace in mounts]
    (listed,) = chadthrottle.forked("list", "--json").json()["rules"]
    assert listed["pid"] == idle.pid


def namespace_of(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:  # it has ended
        return ""
