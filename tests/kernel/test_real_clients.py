"""Programs as people run them: curl, a web server in Python, iperf3."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chadthrottle import limits
from tests.support.network import Endpoint
from tests.support.patience import patient
from tests.support.queued import require_rate
from tests.support.rates import gets_faster, within
from tests.support.throttled import LIMIT, Scene

ROOT = Path(__file__).parents[2]
PORT = 8080
IPERF3_PORT = 5201
CURL = ("curl", "--silent", "--noproxy", "*")
UNLIMITED = 3 * LIMIT

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(stage: Scene) -> Iterator[Start]:
    """Starts a program at an endpoint, in the scene's cgroup; kills it in the end."""
    with ExitStack() as stack:

        def started(endpoint: Endpoint, *words: str) -> "subprocess.Popen[str]":
            join = f'echo $$ >{stage.cgroup}/cgroup.procs; exec "$@"'
            process = stack.enter_context(
                subprocess.Popen(
                    endpoint.command("sh", "-c", join, "sh", *words),
                    cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )
            )  # fmt: skip
            stack.callback(process.kill)
            return process

        yield started


def throttle(stage: Scene, process: "subprocess.Popen[str]") -> None:
    limits.throttle(stage.spec(process.pid), stage.base)


def serve(start: Start, endpoint: Endpoint, address: str) -> "subprocess.Popen[str]":
    server = start(endpoint, sys.executable, "-m", "tests.support.http_server", address, str(PORT))
    assert server.stdout is not None
    assert server.stdout.readline() == "listens\n"
    return server


def written(process: "subprocess.Popen[str]") -> int:
    """Bytes so far, to files and pipes; not to sockets."""
    for line in Path(f"/proc/{process.pid}/io").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(": ")
        if name == "wchar":
            return int(value)
    raise AssertionError("no wchar")


@pytest.mark.parametrize("who", ["the client", "the server"])
def test_curl_downloads(who: str, start: Start, stage: Scene) -> None:
    """It runs already, and is free again after. Over IPv4 when the client is limited, IPv6 when the server is."""
    there = stage.peer.endpoint
    is_client = who == "the client"
    server = serve(start, there, there.ipv4 if is_client else there.ipv6)
    url = f"http://{there.ipv4}:{PORT}/" if is_client else f"http://[{there.ipv6}]:{PORT}/"
    client = start(stage.here, *CURL, "--globoff", "--output", "/dev/null", url)

    def received() -> int:
        return written(client)

    assert gets_faster(received, UNLIMITED, 5)
    limited = client if is_client else server
    throttle(stage, limited)
    require_rate(received)
    limits.release([limited.pid], base=stage.base)
    assert gets_faster(received, UNLIMITED, 3)


def test_curl_uploads(start: Start, stage: Scene) -> None:
    there = stage.peer.endpoint
    server = serve(start, there, there.ipv4)
    url = f"http://{there.ipv4}:{PORT}/"
    client = start(stage.here, *CURL, "--upload-file", "-", "--output", "/dev/null", url)
    filler = subprocess.Popen(["cat", "/dev/zero"], stdout=client.stdin)

    def arrived() -> int:
        return written(server)

    try:
        assert gets_faster(arrived, UNLIMITED, 5)
        throttle(stage, client)
        require_rate(arrived)
    finally:
        filler.kill()
        filler.wait()


@pytest.mark.parametrize("more", [("-P", "4"), ("-u", "-b", f"{16 * LIMIT}")], ids=["tcp", "udp at twice the limit"])
def test_iperf3_both_ways(more: tuple[str, ...], start: Start, stage: Scene) -> None:
    """Limited before it opens its sockets, as `chadthrottle run` does."""
    there, seconds = stage.peer.endpoint, patient(3)
    server = start(there, "iperf3", "-s", "-1")
    assert within(5, lambda: f":{IPERF3_PORT:04X} " in Path(f"/proc/{server.pid}/net/tcp6").read_text("ascii"))
    words = ["iperf3", "-c", there.ipv4, "-J", "--bidir", "-t", f"{seconds:.0f}", *more]
    client = start(stage.here, "sh", "-c", 'read -r line; exec "$@"', "sh", *words)
    throttle(stage, client)
    out, _ = client.communicate("go\n", timeout=patient(20))
    assert client.returncode == 0, out
    ended = json.loads(out)["end"]
    for way in "sum_received", "sum_received_bidir_reverse":
        # The first second may have a quarter more, and headers are not in it.
        assert 0.6 * LIMIT < ended[way]["bits_per_second"] / 8 < 1.15 * LIMIT, (way, ended[way])
