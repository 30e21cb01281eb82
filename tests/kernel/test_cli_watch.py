"""`chadthrottle watch` and `verify`, on real transfers."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from chadthrottle.abi import ThrottleRule
from chadthrottle.enforce.hooks import open_pinned, pins_of_this_version
from chadthrottle.limits.verify import Measured, Verdict
from tests.support.command import ROOT, Command, environment
from tests.support.network import Endpoint
from tests.support.patience import patient
from tests.support.transfer import endless_download, endless_upload, endless_upload_udp

Pair = tuple[Endpoint, Endpoint]


def test_watch_json_is_lines_of_list(chadthrottle: Command, netns_pair: Pair, leaf_cgroup: Path) -> None:
    with endless_upload(netns_pair, leaf_cgroup) as pid:
        chadthrottle("throttle", pid, "--up", "20mbit", "--at", leaf_cgroup)
        command = chadthrottle.line("watch", "--json", "--interval", "1s")
        with subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            times, lines = [], []
            for _ in range(4):
                lines.append(json.loads(process.stdout.readline()))
                times.append(time.monotonic())
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=patient(10))
        assert (process.returncode, err) == (0, "")
        assert 2.5 < times[-1] - times[0] < patient(5)
        listed = chadthrottle("list", "--json").json()
        for line in lines:
            assert line.keys() == listed.keys()
            assert line["rules"][0].keys() == listed["rules"][0].keys()
        assert 0.8 < lines[-1]["rules"][0]["up"]["achieved_bytes_per_s"] / 2_500_000 < 1.2
        assert chadthrottle("release", "--all").status == 0


def test_watch_for_people(chadthrottle: Command) -> None:
    with subprocess.Popen(
        chadthrottle.line("watch"), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        process.send_signal(signal.SIGINT)
        assert process.wait(patient(10)) == 0
    assert re.fullmatch(r"\d\d:\d\d:\d\d\n", lines[0])
    assert lines[1:3] == ["nothing is limited\n", "\n"]
    assert "\033" not in "".join(lines)


def test_watch_into_a_pipe_that_closes(chadthrottle: Command) -> None:
    with subprocess.Popen(
        chadthrottle.line("watch", "--json"),
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(patient(10)) == 1
        assert process.stderr.read() == ""


@pytest.mark.parametrize("direction", ["up", "down"])
def test_verify_a_limit_that_holds(direction: str, chadthrottle: Command, netns_pair: Pair, leaf_cgroup: Path) -> None:
    transfer = endless_upload if direction == "up" else endless_download
    with transfer(netns_pair, leaf_cgroup) as pid:
        chadthrottle("throttle", pid, "20mbit", "--at", leaf_cgroup)
        time.sleep(1)
        answer = chadthrottle("verify", pid)
        answer.require_one_screen()
        assert answer.status == 0, answer
        assert re.match(rf"python3?[\d.]* \(PID {pid}\), its own traffic over 5\.\d s:\n", answer.out)
        assert "holds (" in answer.out
        assert "not measured: too little traffic" in answer.out  # acknowledgements only, the other way
        assert answer.out.endswith("The limit holds: 85% to 105% of the limit count as achieved.\n")
        told = chadthrottle("verify", pid, "--json", "--duration", "6s")
        assert told.status == 0, told
        (rule,) = told.json()["rules"]
        assert {key: told.json()[key] for key in ("schema", "traffic")} == {"schema": 1, "traffic": "own"}
        assert rule["verdict"] == "holds"
        assert 6 <= rule["seconds"] < patient(7)
        measured = rule[direction]
        assert measured.keys() == {
            "verdict", "asked_bytes_per_s", "achieved_bytes_per_s", "ratio", "dropped_packets"
        }  # fmt: skip
        assert (measured["verdict"], measured["asked_bytes_per_s"]) == ("holds", 2_500_000)
        assert 0.85 <= measured["ratio"] <= 1.05
        assert chadthrottle("release", "--all").status == 0


def test_verify_a_limit_that_does_not_hold(
    chadthrottle: Command, netns_pair: Pair, leaf_cgroup: Path, bpffs: Path
) -> None:
    """The bucket is disarmed behind the command's back."""
    with endless_upload_udp(netns_pair, leaf_cgroup) as pid:
        chadthrottle("throttle", pid, "--up", "1mbit", "--at", leaf_cgroup)
        with open_pinned(pins_of_this_version(bpffs / "chadthrottle")) as hooks:
            ((key, value),) = list(hooks.rules.items())
            rule = ThrottleRule.from_buffer_copy(value)
            rule.armed = 0
            hooks.rules.update(key, bytes(rule))
        answer = chadthrottle("verify", pid, "--quiet")
        assert answer.status == 6
        assert answer.out == "The limit does not hold: 85% to 105% of the limit count as achieved.\n"
        told = chadthrottle("verify", "--json").json()["rules"]
        assert [each["verdict"] for each in told] == ["exceeded"]
        assert told[0]["down"] is None
        assert told[0]["up"]["ratio"] > 1.05
        assert chadthrottle("release", "--all").status == 0


def test_verify_without_traffic_is_no_success(chadthrottle: Command, leaf_cgroup: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            chadthrottle("throttle", process.pid, "1mbit", "--at", leaf_cgroup)
            answer = chadthrottle("verify", "--duration", "1s")
            assert answer.status == 6
            assert "This proves nothing" in answer.out
            answer.require_one_screen()
            assert chadthrottle("verify", "--duration", "1s", "--json").json()["rules"][0]["verdict"] == "not_measured"
        finally:
            process.kill()
            chadthrottle("release", "--all")


def test_verify_what_is_not_limited(chadthrottle: Command, leaf_cgroup: Path) -> None:
    assert chadthrottle("verify").status == 4
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            chadthrottle("throttle", process.pid, "1mbit", "--at", leaf_cgroup)
            answer = chadthrottle("verify", 1, "--json")
            assert answer.status == 4
            assert answer.json()["error"]["hint"] == f"Limited processes: {process.pid}."
        finally:
            process.kill()
            chadthrottle("release", "--all")


def test_verify_a_process_that_ends_meanwhile(chadthrottle: Command, leaf_cgroup: Path) -> None:
    with subprocess.Popen(["sleep", "2"]) as process:
        chadthrottle("throttle", process.pid, "1mbit", "--at", leaf_cgroup)
        answer = chadthrottle("verify", process.pid, "--duration", "4s")
        assert answer.status == 4
        assert "the limit ended while it was measured" in answer.err
    assert chadthrottle("release", "--all").status == 0


@pytest.mark.parametrize(
    ("achieved", "verdict"),
    [(0, "not_measured"), (849, "not_measured"), (850, "holds"), (1050, "holds"), (1051, "exceeded")],
)
def test_verdicts(achieved: int, verdict: str) -> None:
    assert Measured(1000, achieved, 0).verdict is Verdict(verdict)
