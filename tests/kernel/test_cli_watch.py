"""`chadthrottle watch`, on real transfers."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

from tests.support.command import ROOT, Command, environment
from tests.support.network import Endpoint
from tests.support.patience import patient
from tests.support.transfer import endless_upload

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
